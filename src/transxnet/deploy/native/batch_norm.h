// Batch normalisation in training, of a map or of GELU of it, and its gradients. Maps are (pixels, channels).

#pragma once

#include <omp.h>

#include <cmath>
#include <vector>

#include "norms.h"
#include "vectors.h"

// The derivative of GELU: what the normal distribution has below x, and x times its density.
ALWAYS_INLINE FloatVec gelu_slope(FloatVec x) {
  FloatVec z = x * 0.70710678118654752f;
  z = chosen(z > 3.6f, all_floats(3.6f), chosen(z < -3.6f, all_floats(-3.6f), z));
  const FloatVec below = 0.5f + 0.5f * (z * error_function_over(z));
  return below + x * 0.3989422804014327f * exponential(x * x * -0.5f);
}

struct BatchNorm {
  int64_t pixels, channels;
  const float* x;
  const float *mean, *factor, *weight, *bias;  // factor: 1 / sqrt(variance + epsilon)
  bool activate;                               // whether it is GELU of x that is normalised

  ALWAYS_INLINE FloatVec value(int64_t at, int count) const {
    const FloatVec given = load_float_some(x + at, count);
    return activate ? gelu(given) : given;
  }
};

// A piece of the map whose sums are in float32; pieces are put together in float64.
inline int64_t piece_of(const BatchNorm& job) { return std::max<int64_t>(1, 8192 / job.channels); }

// Calls add(first, last, channel, count, sums) for pieces of pixels and sixteen channels, which adds to kSums sums, and
// returns those of all pieces: (kSums, channels).
template <int kSums, class Add>
std::vector<double> summed(const BatchNorm& job, const Add& add, int threads) {
  const int64_t step = piece_of(job), pieces = (job.pixels + step - 1) / step;
  std::vector<double> totals(threads * kSums * job.channels);
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
    double* total = totals.data() + thread * kSums * job.channels;
    for (int64_t piece = pieces * thread / all; piece < pieces * (thread + 1) / all; ++piece)
      for (int64_t channel = 0; channel < job.channels; channel += kFloats) {
        const int count = floats(job.channels - channel);
        FloatVec sums[kSums] = {};
        add(piece * step, std::min(job.pixels, (piece + 1) * step), channel, count, sums);
        for (int i = 0; i < kSums; ++i)
          for (int j = 0; j < count; ++j) total[i * job.channels + channel + j] += sums[i][j];
      }
  }
  for (int64_t thread = 1; thread < threads; ++thread)
    for (int64_t i = 0; i < kSums * job.channels; ++i) totals[i] += totals[thread * kSums * job.channels + i];
  totals.resize(kSums * job.channels);
  return totals;
}

// Means and variances (biased) of the channels. Values are taken around those of the first pixel: large means lose
// nothing.
inline void channel_statistics(const BatchNorm& job, float* mean, float* variance, int threads) {
  const auto sums = summed<2>(
      job,
      [&](int64_t first, int64_t last, int64_t channel, int count, FloatVec* sums) {
        const FloatVec around = job.value(channel, count);
        for (int64_t pixel = first; pixel < last; ++pixel) {
          const FloatVec value = job.value(pixel * job.channels + channel, count) - around;
          sums[0] += value;
          sums[1] += value * value;
        }
      },
      threads);
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const double off = sums[channel] / job.pixels, squares = sums[job.channels + channel] / job.pixels;
    mean[channel] = static_cast<float>(off + job.value(channel, 1)[0]);
    variance[channel] = static_cast<float>(std::max(0.0, squares - off * off));
  }
}

inline void batch_norm(const BatchNorm& job, float* out, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t pixel = 0; pixel < job.pixels; ++pixel)
    for (int64_t channel = 0; channel < job.channels; channel += kFloats) {
      const int count = floats(job.channels - channel);
      const FloatVec scale = load_float_some(job.factor + channel, count) * load_float_some(job.weight + channel, count);
      const FloatVec off = job.value(pixel * job.channels + channel, count) - load_float_some(job.mean + channel, count);
      store_float_some(out + pixel * job.channels + channel, off * scale + load_float_some(job.bias + channel, count),
                       count);
    }
}

// The gradients of weight and bias, and of x from that of the output.
inline void batch_norm_gradients(const BatchNorm& job, const float* gradient, float* weight, float* bias, float* back,
                                 int threads) {
  const auto sums = summed<2>(
      job,
      [&](int64_t first, int64_t last, int64_t channel, int count, FloatVec* sums) {
        const FloatVec mean = load_float_some(job.mean + channel, count);
        for (int64_t at = first * job.channels + channel; at < last * job.channels; at += job.channels) {
          const FloatVec given = load_float_some(gradient + at, count);
          sums[0] += given;
          sums[1] += given * (job.value(at, count) - mean);
        }
      },
      threads);
  // back = scale * (gradient - mean gradient - normalised * mean of gradient * normalised)
  std::vector<float> shares(2 * job.channels);
  for (int64_t channel = 0; channel < job.channels; ++channel) {
    const double factor = job.factor[channel], times = sums[job.channels + channel] * factor;
    bias[channel] = static_cast<float>(sums[channel]);
    weight[channel] = static_cast<float>(times);
    shares[channel] = static_cast<float>(sums[channel] / job.pixels);
    shares[job.channels + channel] = static_cast<float>(times * factor / job.pixels);
  }
#pragma omp parallel for num_threads(threads)
  for (int64_t pixel = 0; pixel < job.pixels; ++pixel)
    for (int64_t channel = 0; channel < job.channels; channel += kFloats) {
      const int count = floats(job.channels - channel);
      const int64_t at = pixel * job.channels + channel;
      const FloatVec x = load_float_some(job.x + at, count);
      const FloatVec off = (job.activate ? gelu(x) : x) - load_float_some(job.mean + channel, count);
      FloatVec found = load_float_some(gradient + at, count) - load_float_some(shares.data() + channel, count);
      found -= off * load_float_some(shares.data() + job.channels + channel, count);
      found *= load_float_some(job.factor + channel, count) * load_float_some(job.weight + channel, count);
      store_float_some(back + at, job.activate ? found * gelu_slope(x) : found, count);
    }
}

// GELU, and its gradient, of `count` numbers.
inline void gelu_of(const float* in, float* out, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < count; i += kFloats) {
    const int some = floats(count - i);
    store_float_some(out + i, gelu(load_float_some(in + i, some)), some);
  }
}
inline void gelu_gradient(const float* in, const float* gradient, float* back, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < count; i += kFloats) {
    const int some = floats(count - i);
    store_float_some(back + i, load_float_some(gradient + i, some) * gelu_slope(load_float_some(in + i, some)), some);
  }
}
