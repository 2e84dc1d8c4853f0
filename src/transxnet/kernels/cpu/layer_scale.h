// The gradients of a layer scale, x * weight + bias for each channel.

#pragma once

#include <algorithm>
#include <vector>

#include "batch_norm.h"
#include "vectors.h"

// Maps as in batch_norm.h. in_gradient: of the input, or null; weight_gradient, bias_gradient: (channels).
struct ScaleGradients {
  int64_t rows, channels;
  const float *in, *gradient, *weight;
  float *in_gradient, *weight_gradient, *bias_gradient;
};

// For rows `first` to `last`: sums of gradients and of their products with the input, (channels).
inline void share_scale_gradients(const ScaleGradients& job, int64_t first, int64_t last, double* sums,
                                  double* products) {
  for (int64_t begin = first; begin < last; begin += kPiece) {
    const int64_t end = std::min(last, begin + kPiece);
    for_channels(job.channels, [&](auto number, int64_t channel, int count, int skipped) ALWAYS_INLINE_LAMBDA {
      constexpr int kNumber = decltype(number)::value;
      Vec sum[kNumber] = {}, product[kNumber] = {};
      for (int64_t row = begin; row < end; ++row)
#pragma GCC unroll 4
        for (int i = 0; i < kNumber; ++i) {
          const int64_t column = channel + i * kLanes, index = row * job.channels + column;
          const Vec gradient = load_some(job.gradient + index, count);
          sum[i] += gradient;
          product[i] += gradient * load_some(job.in + index, count);
          if (job.in_gradient)
            store_some(job.in_gradient + index, gradient * load_some(job.weight + column, count), count);
        }
      for (int i = 0; i < kNumber; ++i)
        for (int lane = skipped; lane < count; ++lane) {
          sums[channel + i * kLanes + lane] += sum[i][lane];
          products[channel + i * kLanes + lane] += product[i][lane];
        }
    });
  }
}

inline void scale_gradients(const ScaleGradients& job, int threads) {
  const Shares shares(job.rows);
  std::vector<double> sums(shares.count * job.channels), products(shares.count * job.channels);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t share = 0; share < shares.count; ++share)
    share_scale_gradients(job, shares.first(share), shares.last(share), &sums[share * job.channels],
                          &products[share * job.channels]);
  for (int64_t i = 0; i < job.channels; ++i) {
    double sum = 0, product = 0;
    for (int64_t share = 0; share < shares.count; ++share) {
      sum += sums[share * job.channels + i];
      product += products[share * job.channels + i];
    }
    job.weight_gradient[i] = static_cast<float>(product);
    job.bias_gradient[i] = static_cast<float>(sum);
  }
}
