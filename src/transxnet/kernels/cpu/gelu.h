// GELU and its gradient, elementwise.

#pragma once

#include <algorithm>

#include "vectors.h"

// As gelu(), with an error function within 1.4e-7: batch normalisation's gradients are differences of large numbers.
ALWAYS_INLINE Vec fine_gelu(Vec x) {
  Vec z = x * 0.70710678118654752f;
  z = chosen(z > 3.8f, all(3.8f), chosen(z < -3.8f, all(-3.8f), z));
  const Vec t = z * z * 0.13850415512465375f - 1.0f;
  Vec sum = all(-6.343581578912433e-05f);
  for (const float coefficient :
       {0.00019810709378342056f, -0.0002440284971146772f, 0.00044332438303078844f, -0.0013485037535374256f,
        0.0029606874508979154f, -0.005429381045647678f, 0.009740949236255958f, -0.016725935016167277f,
        0.02665327466481867f, -0.03957230514621652f, 0.05510165980323123f, -0.07238963569333154f,
        0.09082270174662906f, -0.11119648919858444f, 0.13774020080964788f, -0.1856409301984725f, 0.3721076135747453f})
    sum = sum * t + coefficient;
  const Vec half = 0.5f * x;
  return half + half * (z * sum);
}

// (1 + erf(z)) / 2 + z * exp(-z * z) / sqrt(pi) for z = x / sqrt(2), the derivative of gelu(x). Fitted as gelu() is:
// 1 / 2 + z * p(z * z / 8 - 1) for |z| <= 4, within 4e-7, and 1 or 0 beyond.
ALWAYS_INLINE Vec gelu_derivative(Vec x) {
  Vec z = x * 0.70710678118654752f;
  z = chosen(z > 4.0f, all(4.0f), chosen(z < -4.0f, all(-4.0f), z));
  const Vec t = z * z * 0.125f - 1.0f;
  Vec sum = all(0.005447267089039087f);
  for (const float coefficient :
       {-0.013539038598537445f, 0.0062509276904165745f, -0.0025357764679938555f, 0.03182272985577583f,
        -0.05954711511731148f, 0.06300832331180573f, -0.07370463013648987f, 0.09492006152868271f,
        -0.10381831228733063f, 0.09900789707899094f, -0.0887143537402153f, 0.07738211005926132f,
        -0.07002817839384079f, 0.07189522683620453f, -0.08980179578065872f, 0.1769547462463379f})
    sum = sum * t + coefficient;
  return z * sum + 0.5f;
}

// Calls step(first, count) for every sixteen of `size` elements.
template <class Step>
void everywhere(int64_t size, const Step& step, int threads) {
  constexpr int64_t kShare = 4096;
#pragma omp parallel for num_threads(threads)
  for (int64_t share = 0; share < size; share += kShare) {
    const int64_t last = std::min(size, share + kShare);
    int64_t i = share;
    for (; i + kLanes <= last; i += kLanes) step(i, kLanes);
    if (i < last) step(i, static_cast<int>(last - i));
  }
}
