// Sixteen float32 numbers at a time, and what is computed of them. The compiler makes of them what the processor has.

#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

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

// x / 2 * (1 + erf(x / sqrt(2))). The error function is z * p(z * z / 8 - 1) for |z| <= 4, within 4e-7, and 1 beyond:
// a Chebyshev fit of erf(z) / z, since divisions and exponentials take several times as long as products.
ALWAYS_INLINE Vec gelu(Vec x) {
  Vec z = x * 0.70710678118654752f;
  z = chosen(z > 4.0f, all(4.0f), chosen(z < -4.0f, all(-4.0f), z));
  const Vec t = z * z * 0.125f - 1.0f;
  Vec sum = all(0.0023159035481512547f);
  for (const float coefficient :
       {-0.005881794728338718f, 0.003931425046175718f, -0.0033934335224330425f, 0.014357052743434906f,
        -0.026381583884358406f, 0.03344898670911789f, -0.0442446768283844f, 0.059684328734874725f,
        -0.07502537220716476f, 0.09024757891893387f, -0.10768520832061768f, 0.13167263567447662f,
        -0.17657683789730072f, 0.35353103280067444f})
    sum = sum * t + coefficient;
  const Vec half = 0.5f * x;
  return half + half * (z * sum);
}

// Memory of a thread, aligned so that no sixteen numbers lie in two lines of the cache.
class Scratch {
 public:
  float* floats(int64_t count) {
    if (static_cast<int64_t>(kept_.size()) < count + kLanes) kept_.resize(count + kLanes);
    const auto address = reinterpret_cast<uintptr_t>(kept_.data());
    return reinterpret_cast<float*>((address + 63) / 64 * 64);
  }

 private:
  std::vector<float> kept_;
};
