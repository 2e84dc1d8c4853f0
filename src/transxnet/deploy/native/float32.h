// What the kernels compute in: float32.

#pragma once

typedef float Number;
typedef FloatVec Vec;
typedef FloatVec Floats;

ALWAYS_INLINE Vec all(float value) { return all_floats(value); }
ALWAYS_INLINE Floats to_floats(Vec value) { return value; }
ALWAYS_INLINE Vec to_vec(Floats value) { return value; }

template <class T>
ALWAYS_INLINE Vec load(const T* from) {
  return load_float(from);
}
template <class T>
ALWAYS_INLINE Vec load_some(const T* from, int count) {
  return load_float_some(from, count);
}
template <class T>
ALWAYS_INLINE Floats load_floats_some(const T* from, int count) {
  return load_float_some(from, count);
}
template <class T>
ALWAYS_INLINE void store(T* to, Vec value) {
  store_float(to, value);
}
template <class T>
ALWAYS_INLINE void store_some(T* to, Vec value, int count) {
  store_float_some(to, value, count);
}
template <class T>
ALWAYS_INLINE void store_floats_some(T* to, Floats value, int count) {
  store_float_some(to, value, count);
}

// For products: a summand of each column, or the last of them.
ALWAYS_INLINE Vec spread(const Number* from) { return all(*from); }
ALWAYS_INLINE Vec spread_last(const Number* from) { return all(*from); }

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
