// Arithmetic in float32.

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

// For products: a summand, or the last one, for all columns.
ALWAYS_INLINE Vec spread(const Number* from) { return all(*from); }
ALWAYS_INLINE Vec spread_last(const Number* from) { return all(*from); }

// x / 2 * (1 + erf(x / sqrt(2))). The error function is z * p(2 * (z / 3.6)**2 - 1) for |z| <= 3.6, within 6e-7, and 1
// beyond: a Chebyshev fit of erf(z) / z, since divisions and exponentials are several times slower than products.
ALWAYS_INLINE Vec gelu(Vec x) {
  Vec z = x * 0.70710678118654752f;
  z = chosen(z > 3.6f, all(3.6f), chosen(z < -3.6f, all(-3.6f), z));
  const Vec t = z * z * 0.15432098765432098f - 1.0f;
  Vec sum = all(0.0021486950732386486f);
  for (const float coefficient :
       {-0.005740973006642533f, 0.0058996669626002534f, -0.008306667083394626f, 0.019888948741374583f,
        -0.034361320431689005f, 0.04892649210453133f, -0.06755413168690283f, 0.08967988733163945f,
        -0.1138467979063103f, 0.14382082452989392f, -0.19548885833760946f, 0.39271200634838566f})
    sum = sum * t + coefficient;
  const Vec half = 0.5f * x;
  return half + half * (z * sum);
}
