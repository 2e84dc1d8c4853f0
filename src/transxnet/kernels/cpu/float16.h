// Arithmetic in float16, on processors with AVX512-FP16.

#pragma once

#ifndef __AVX512FP16__
#error "this processor does not compute in float16"
#endif

typedef _Float16 Number;
typedef _Float16 Vec __attribute__((vector_size(64), aligned(2), may_alias));
typedef uint16_t HalfBits32 __attribute__((vector_size(64), aligned(2), may_alias));

struct Floats {
  FloatVec low, high;
};
ALWAYS_INLINE Floats operator+(Floats a, Floats b) { return {a.low + b.low, a.high + b.high}; }
ALWAYS_INLINE Floats operator-(Floats a, Floats b) { return {a.low - b.low, a.high - b.high}; }
ALWAYS_INLINE Floats operator*(Floats a, Floats b) { return {a.low * b.low, a.high * b.high}; }
ALWAYS_INLINE Floats operator-(Floats a, float b) { return {a.low - b, a.high - b}; }
ALWAYS_INLINE Floats operator*(Floats a, float b) { return {a.low * b, a.high * b}; }
ALWAYS_INLINE Floats operator/(Floats a, Floats b) { return {a.low / b.low, a.high / b.high}; }
ALWAYS_INLINE Floats& operator+=(Floats& a, Floats b) { return a = a + b; }
ALWAYS_INLINE Floats larger(Floats a, Floats b) { return {larger(a.low, b.low), larger(a.high, b.high)}; }
ALWAYS_INLINE Floats exponential(Floats x) { return {exponential(x.low), exponential(x.high)}; }
ALWAYS_INLINE Floats sigmoid(Floats x) { return {sigmoid(x.low), sigmoid(x.high)}; }
ALWAYS_INLINE float sum_of(Floats x) { return sum_of(x.low + x.high); }
ALWAYS_INLINE float largest_of(Floats x) { return largest_of(larger(x.low, x.high)); }

ALWAYS_INLINE Vec all(float value) { return reinterpret_cast<Vec>(_mm512_set1_ph(static_cast<_Float16>(value))); }
ALWAYS_INLINE Floats to_floats(Vec value) {
  const auto bits = reinterpret_cast<__m512i>(value);
  const auto wide = [](__m256i half) { return widened(reinterpret_cast<HalfBits>(half), Number()); };
  return {wide(_mm512_castsi512_si256(bits)), wide(_mm512_extracti64x4_epi64(bits, 1))};
}
ALWAYS_INLINE Vec to_vec(Floats value) {
  const auto low = reinterpret_cast<__m256i>(narrowed(value.low, Number()));
  const auto high = reinterpret_cast<__m256i>(narrowed(value.high, Number()));
  return reinterpret_cast<Vec>(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

ALWAYS_INLINE Vec load(const Number* from) { return *reinterpret_cast<const Vec*>(from); }
ALWAYS_INLINE void store(Number* to, Vec value) { *reinterpret_cast<Vec*>(to) = value; }
ALWAYS_INLINE Vec load_some(const Number* from, int count) {
  if (count == 32) return load(from);
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_epi16((uint64_t{1} << count) - 1, from));
}
ALWAYS_INLINE void store_some(Number* to, Vec value, int count) {
  if (count == 32) return store(to, value);
  _mm512_mask_storeu_epi16(to, (uint64_t{1} << count) - 1, reinterpret_cast<__m512i>(value));
}
template <class T>
ALWAYS_INLINE Floats load_floats_some(const T* from, int count) {
  if (count >= kFloats) return {load_float(from), load_float_some(from + kFloats, count - kFloats)};
  return {load_float_some(from, count), FloatVec{}};
}
template <class T>
ALWAYS_INLINE void store_floats_some(T* to, Floats value, int count) {
  store_float_some(to, value.low, count < kFloats ? count : kFloats);
  if (count > kFloats) store_float_some(to + kFloats, value.high, count - kFloats);
}
ALWAYS_INLINE Vec load_some(const bfloat16* from, int count) { return to_vec(load_floats_some(from, count)); }
ALWAYS_INLINE void store_some(bfloat16* to, Vec value, int count) { store_floats_some(to, to_floats(value), count); }

// For products: two summands of each column, the first one in the even lanes; or the last one alone.
ALWAYS_INLINE Vec spread(const Number* from) {
  int two;
  std::memcpy(&two, from, sizeof(two));
  return reinterpret_cast<Vec>(_mm512_set1_epi32(two));
}
ALWAYS_INLINE Vec spread_last(const Number* from) {
  uint16_t one;
  std::memcpy(&one, from, sizeof(one));
  return reinterpret_cast<Vec>(_mm512_set1_epi32(one));
}
// Sums of even and odd lanes: sixteen columns of each, in order.
ALWAYS_INLINE Vec joined(Vec first, Vec second) {
  HalfBits32 even, odd;
  for (int i = 0; i < 32; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
  const auto a = reinterpret_cast<HalfBits32>(first), b = reinterpret_cast<HalfBits32>(second);
  return reinterpret_cast<Vec>(__builtin_shuffle(a, b, even)) + reinterpret_cast<Vec>(__builtin_shuffle(a, b, odd));
}

// As in float32.h, but with an error function within 5e-4, on |z| <= 2.75, which is float16's precision.
ALWAYS_INLINE Vec gelu(Vec x) {
  Vec z = x * all(0.70710678118654752f);
  const Vec most = all(2.75f), one = all(1.0f);
  z = z > most ? most : z < -most ? -most : z;
  const Vec t = z * z * all(0.2644628099173554f) - one;
  Vec sum = all(-0.006475349557083136f);
  for (const float coefficient :
       {0.019555814062148118f, -0.032859035201055604f, 0.05696878922920938f, -0.1000355601015952f,
        0.1580682859880516f, -0.24281728617247578f, 0.5111880190457561f})
    sum = sum * t + all(coefficient);
  Vec error = z * sum;
  error = error > one ? one : error < -one ? -one : error;
  const Vec half = all(0.5f) * x;
  return half + half * error;
}
