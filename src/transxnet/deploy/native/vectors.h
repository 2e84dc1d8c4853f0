// Sixteen float32 numbers at a time, and what is computed of them. The compiler makes of them what the processor has.

#pragma once

#include <cstdint>
#include <cstring>

#define ALWAYS_INLINE __attribute__((always_inline)) inline
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

constexpr int kLanes = 16;
typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t UIntVec __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(32), aligned(2), may_alias));

ALWAYS_INLINE Vec all(float v) {  // not Vec{} + v, which is an addition: of -0 it is 0
  return Vec{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v};
}

ALWAYS_INLINE Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
ALWAYS_INLINE void store(float* to, Vec value) { *reinterpret_cast<Vec*>(to) = value; }

// bfloat16 is the upper half of float32; a store rounds to the nearest, ties to even.
ALWAYS_INLINE Vec load(const uint16_t* from) {
  const UIntVec bits = __builtin_convertvector(*reinterpret_cast<const HalfVec*>(from), UIntVec) << 16;
  Vec value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
ALWAYS_INLINE void store(uint16_t* to, Vec value) {
  UIntVec bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const UIntVec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UIntVec nan = reinterpret_cast<UIntVec>(value != value);
  *reinterpret_cast<HalfVec*>(to) = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), HalfVec);
}

// The first `count` of the sixteen.
template <class T>
ALWAYS_INLINE Vec load_some(const T* from, int count) {
  if (count == kLanes) return load(from);
  T few[kLanes] = {};
  for (int i = 0; i < count; ++i) few[i] = from[i];
  return load(few);
}
template <class T>
ALWAYS_INLINE void store_some(T* to, Vec value, int count) {
  if (count == kLanes) return store(to, value);
  T few[kLanes];
  store(few, value);
  for (int i = 0; i < count; ++i) to[i] = few[i];
}

ALWAYS_INLINE int lanes(int64_t left) { return left < kLanes ? static_cast<int>(left) : kLanes; }

ALWAYS_INLINE Vec chosen(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }
ALWAYS_INLINE Vec larger(Vec a, Vec b) { return chosen(a > b, a, b); }

ALWAYS_INLINE float sum_of(Vec value) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += value[i];
  return total;
}
ALWAYS_INLINE float largest_of(Vec value) {
  float most = value[0];
  for (int i = 1; i < kLanes; ++i) most = value[i] > most ? value[i] : most;
  return most;
}

// Of x <= 0; below -80 it is that of -80, 2e-35: smaller products are slow. Within 2 units of the last place.
ALWAYS_INLINE Vec exponential(Vec x) {
  x = larger(x, all(-80.0f));
  const Vec magic = all(12582912.0f);  // 1.5 * 2**23: adding it rounds to a whole number
  const Vec whole = (x * 1.44269504088896341f + magic) - magic;
  const Vec rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec sum = all(1.9875691500e-4f);  // the coefficients are those of Cephes' expf
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

ALWAYS_INLINE Vec sigmoid(Vec x) {
  const Vec power = exponential(chosen(x < 0.0f, x, -x));
  return chosen(x < 0.0f, power, all(1.0f)) / (1.0f + power);
}

// Abramowitz and Stegun, 7.1.26: within 1.5e-7 of the error function.
ALWAYS_INLINE Vec gelu(Vec x) {
  const Vec scaled = x * 0.70710678118654752f;
  const Vec size = chosen(scaled < 0.0f, -scaled, scaled);
  const Vec t = 1.0f / (1.0f + 0.3275911f * size);
  Vec sum = all(1.061405429f);
  sum = sum * t - 1.453152027f;
  sum = sum * t + 1.421413741f;
  sum = sum * t - 0.284496736f;
  sum = sum * t + 0.254829592f;
  const Vec rest = sum * t * exponential(-size * size);  // 1 - erf(size)
  const Vec half = 0.5f * x;
  return chosen(scaled < 0.0f, half * rest, x - half * rest);
}
