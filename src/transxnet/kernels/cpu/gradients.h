// The gradient of a depthwise convolution with respect to its kernel and bias.

#pragma once

#include <algorithm>
#include <vector>

#include "norms.h"
#include "vectors.h"

// in, gradient: maps (image, row, column, channel), the second one of the convolution's output.
// kernel: (images, size * size, channels), bias: (images, channels): separately for each image.
struct KernelGradient {
  Map map;
  const float* in;
  int64_t in_pixel, in_image;
  const float* gradient;
  int64_t gradient_pixel, gradient_image;
  float *kernel, *bias;
};

template <int kSize>
void kernel_gradient(const KernelGradient& job, int64_t image, int64_t channel) {
  constexpr int kPad = kSize / 2;
  const int64_t columns = job.map.columns, width = columns + 2 * kPad;
  const int count = lanes(job.map.channels - channel);
  thread_local Scratch scratch;
  float* buffer = scratch.numbers((kSize * width + columns) * kLanes);
  std::fill_n(buffer, kSize * width * kLanes, 0.0f);  // the margins stay 0
  float* gradients = buffer + kSize * width * kLanes;
  Vec sums[kSize * kSize] = {}, bias{};

  const auto fetch = [&](int64_t row) {
    float* line = buffer + ((row + kSize) % kSize * width + kPad) * kLanes;
    if (row >= job.map.rows) return std::fill(line, line + columns * kLanes, 0.0f);
    const float* from = job.in + image * job.in_image + row * columns * job.in_pixel + channel;
    for (int64_t column = 0; column < columns; ++column)
      store(line + column * kLanes, load_some(from + column * job.in_pixel, count));
  };
  for (int64_t row = 0; row < kPad; ++row) fetch(row);
  for (int64_t row = 0; row < job.map.rows; ++row) {
    fetch(row + kPad);
    const float* from = job.gradient + image * job.gradient_image + row * columns * job.gradient_pixel + channel;
    for (int64_t column = 0; column < columns; ++column) {
      const Vec value = load_some(from + column * job.gradient_pixel, count);
      store(gradients + column * kLanes, value);
      bias += value;
    }
    for (int y = 0; y < kSize; ++y) {
      const float* line = buffer + (row - kPad + y + kSize) % kSize * width * kLanes;
      Vec some[kSize];
#pragma GCC unroll 7
      for (int x = 0; x < kSize; ++x) some[x] = Vec{};
      for (int64_t column = 0; column < columns; ++column) {
        const Vec value = load(gradients + column * kLanes);
#pragma GCC unroll 7
        for (int x = 0; x < kSize; ++x) some[x] += value * load(line + (column + x) * kLanes);
      }
#pragma GCC unroll 7
      for (int x = 0; x < kSize; ++x) sums[y * kSize + x] += some[x];
    }
  }
  for (int index = 0; index < kSize * kSize; ++index)
    store_some(job.kernel + (image * kSize * kSize + index) * job.map.channels + channel, sums[index], count);
  store_some(job.bias + image * job.map.channels + channel, bias, count);
}

inline void kernel_gradient(const KernelGradient& job, int size, int threads) {
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < job.map.images; ++image)
    for (int64_t channel = 0; channel < job.map.channels; channel += kLanes) switch (size) {
        case 1: kernel_gradient<1>(job, image, channel); break;
        case 3: kernel_gradient<3>(job, image, channel); break;
        case 5: kernel_gradient<5>(job, image, channel); break;
        case 7: kernel_gradient<7>(job, image, channel); break;
      }
}
