// Vectors of numbers and operations on them, which the compiler translates to the processor's registers.
//
// The kernels compute in Number: float32, or float16 with -DFLOAT16, for processors with float16 arithmetic. A Vec has
// 64 bytes of them; operations that need more precision use Floats, the same count in float32.

#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>
#if defined(__AVX512BW__) || defined(__F16C__)
#include <immintrin.h>
#endif

#define ALWAYS_INLINE __attribute__((always_inline)) inline
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

constexpr int kFloats = 16;
typedef float FloatVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t UIntVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t HalfBits __attribute__((vector_size(32), aligned(2), may_alias));
typedef uint16_t bfloat16;  // the upper half of float32
#if defined(__aarch64__) && !defined(__clang__) && __GNUC__ < 13  // has __FLT16_MAX__, but no _Float16 in C++
typedef __fp16 float16;
#elif defined(__FLT16_MAX__)
typedef _Float16 float16;
#endif

ALWAYS_INLINE FloatVec all_floats(float v) {  // not FloatVec{} + v, which is an addition: of -0 it is 0
  return FloatVec{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v};
}

ALWAYS_INLINE FloatVec widened(HalfBits bits, bfloat16) {
  const UIntVec upper = __builtin_convertvector(bits, UIntVec) << 16;
  FloatVec value;
  std::memcpy(&value, &upper, sizeof(value));
  return value;
}
ALWAYS_INLINE HalfBits narrowed(FloatVec value, bfloat16) {  // to the nearest, ties to even
  UIntVec bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const UIntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UIntVec nan = reinterpret_cast<UIntVec>(value != value);
  return __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), HalfBits);
}

#ifdef __FLT16_MAX__
typedef float16 HalfVec __attribute__((vector_size(32), aligned(2), may_alias));
ALWAYS_INLINE FloatVec widened(HalfBits bits, float16) {
#ifdef __AVX512BW__
  return reinterpret_cast<FloatVec>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(bits)));
#elif defined(__F16C__)
  __m128i halves[2];
  std::memcpy(halves, &bits, sizeof(halves));
  const __m256 wide[2] = {_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])};
  FloatVec value;
  std::memcpy(&value, wide, sizeof(value));
  return value;
#else
  return __builtin_convertvector(reinterpret_cast<HalfVec>(bits), FloatVec);
#endif
}
ALWAYS_INLINE HalfBits narrowed(FloatVec value, float16) {
#ifdef __AVX512BW__
  return reinterpret_cast<HalfBits>(_mm512_cvtps_ph(reinterpret_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  __m256 wide[2];
  std::memcpy(wide, &value, sizeof(wide));
  const __m128i halves[2] = {_mm256_cvtps_ph(wide[0], _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(wide[1], _MM_FROUND_TO_NEAREST_INT)};
  HalfBits bits;
  std::memcpy(&bits, halves, sizeof(bits));
  return bits;
#else
  return reinterpret_cast<HalfBits>(__builtin_convertvector(value, HalfVec));
#endif
}
#endif

ALWAYS_INLINE FloatVec load_float(const float* from) { return *reinterpret_cast<const FloatVec*>(from); }
ALWAYS_INLINE void store_float(float* to, FloatVec value) { *reinterpret_cast<FloatVec*>(to) = value; }
template <class T>
ALWAYS_INLINE FloatVec load_float(const T* from) {
  return widened(*reinterpret_cast<const HalfBits*>(from), T());
}
template <class T>
ALWAYS_INLINE void store_float(T* to, FloatVec value) {
  *reinterpret_cast<HalfBits*>(to) = narrowed(value, T());
}

// The first `count` of the sixteen, possibly none.
template <class T>
ALWAYS_INLINE FloatVec load_float_some(const T* from, int count) {
  if (count == kFloats) return load_float(from);
#ifdef __AVX512BW__
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (sizeof(T) == 4)
    return reinterpret_cast<FloatVec>(_mm512_maskz_loadu_ps(mask, from));
  else
    return widened(reinterpret_cast<HalfBits>(_mm256_maskz_loadu_epi16(mask, from)), T());
#else
  T few[kFloats] = {};
  for (int i = 0; i < count; ++i) few[i] = from[i];
  return load_float(few);
#endif
}
template <class T>
ALWAYS_INLINE void store_float_some(T* to, FloatVec value, int count) {
  if (count == kFloats) return store_float(to, value);
#ifdef __AVX512BW__
  const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, mask, reinterpret_cast<__m512>(value));
  else
    _mm256_mask_storeu_epi16(to, mask, reinterpret_cast<__m256i>(narrowed(value, T())));
#else
  T few[kFloats];
  store_float(few, value);
  for (int i = 0; i < count; ++i) to[i] = few[i];
#endif
}

ALWAYS_INLINE FloatVec chosen(IntVec mask, FloatVec yes, FloatVec no) { return mask ? yes : no; }
ALWAYS_INLINE FloatVec larger(FloatVec a, FloatVec b) { return chosen(a > b, a, b); }

// Combines all numbers of a vector, by halves.
template <class Combine>
ALWAYS_INLINE float combined(FloatVec value, const Combine& combine) {
  const IntVec position{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  value = combine(value, __builtin_shuffle(value, position ^ 8));
  value = combine(value, __builtin_shuffle(value, position ^ 4));
  value = combine(value, __builtin_shuffle(value, position ^ 2));
  return combine(value, __builtin_shuffle(value, position ^ 1))[0];
}
ALWAYS_INLINE float sum_of(FloatVec value) {
  return combined(value, [](FloatVec a, FloatVec b) ALWAYS_INLINE_LAMBDA { return a + b; });
}
ALWAYS_INLINE float largest_of(FloatVec value) {
  return combined(value, [](FloatVec a, FloatVec b) ALWAYS_INLINE_LAMBDA { return larger(a, b); });
}

// The exponential of x <= 0, within 2 ulp; below -80 that of -80, 2e-35, since smaller products are slow.
ALWAYS_INLINE FloatVec exponential(FloatVec x) {
  x = larger(x, all_floats(-80.0f));
  const FloatVec magic = all_floats(12582912.0f);  // 1.5 * 2**23: adding it rounds to a whole number
  const FloatVec whole = (x * 1.44269504088896341f + magic) - magic;
  const FloatVec rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  FloatVec sum = all_floats(1.9875691500e-4f);  // the coefficients are those of Cephes' expf
  sum = sum * rest + 1.3981999507e-3f;
  sum = sum * rest + 8.3334519073e-3f;
  sum = sum * rest + 4.1665795894e-2f;
  sum = sum * rest + 1.6666665459e-1f;
  sum = sum * rest + 5.0000001201e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  IntVec bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  bits += __builtin_convertvector(whole, IntVec) << 23;
  std::memcpy(&sum, &bits, sizeof(sum));
  return sum;
}

ALWAYS_INLINE FloatVec sigmoid(FloatVec x) {
  const FloatVec power = exponential(chosen(x < 0.0f, x, -x));
  return chosen(x < 0.0f, power, all_floats(1.0f)) / (1.0f + power);
}

#ifdef FLOAT16
#include "float16.h"
#else
#include "float32.h"
#endif

constexpr int kLanes = sizeof(Vec) / sizeof(Number);
constexpr int kPair = sizeof(float) / sizeof(Number);  // numbers of a word

// The registers of a Vec. Compilers keep a vector that takes several in memory, so the long loops name the registers.
#if defined(__AVX512F__)
typedef Vec Register;
#elif defined(__AVX__)
typedef float Register __attribute__((vector_size(32), aligned(4), may_alias));
#else
typedef float Register __attribute__((vector_size(16), aligned(4), may_alias));
#endif
constexpr int kRegisters = sizeof(Vec) / sizeof(Register);
constexpr int kRegisterLanes = kLanes / kRegisters;

ALWAYS_INLINE Register load_register(const Number* from) { return *reinterpret_cast<const Register*>(from); }
ALWAYS_INLINE Register spread_register(const Number* from, bool last) {
#ifdef __AVX512F__
  return last ? spread_last(from) : spread(from);
#else
  return *from - Register{};  // not a sum, which is 0 for -0
#endif
}
ALWAYS_INLINE Vec joined_registers(const Register (&parts)[kRegisters]) {
#ifdef __AVX512F__
  return parts[0];
#else
  Vec value;
  std::memcpy(&value, parts, sizeof(value));
  return value;
#endif
}

ALWAYS_INLINE int lanes(int64_t left) { return left < kLanes ? static_cast<int>(left) : kLanes; }

// Scratch memory of a thread, aligned so that no Vec crosses a cache line.
class Scratch {
 public:
  Number* numbers(int64_t count) {
    if (static_cast<int64_t>(kept_.size()) < count + kLanes) kept_.resize(count + kLanes);
    const auto address = reinterpret_cast<uintptr_t>(kept_.data());
    return reinterpret_cast<Number*>((address + 63) / 64 * 64);
  }

 private:
  std::vector<Number> kept_;
};
