// Depthwise convolutions.

#pragma once

#include <algorithm>
#include <vector>

#include "norms.h"
#include "vectors.h"

// A convolution with stride 1 that keeps the map's size.
//
// kernel: (images or 1, size * size, channels), bias: (images or 1, channels), both Number.
template <class In, class Out>
struct Depthwise {
  Map map;
  const In* in;
  int64_t in_pixel, in_image;  // strides of pixels and images in elements
  Out* out;
  int64_t out_pixel, out_image;
  const Number* kernel;
  int64_t kernel_pixel, kernel_image;  // kernel_image is 0 if all images share the kernel
  const Number* bias;
  int64_t bias_image;
  bool activate;
};

template <int kSize, int kTile, class Out>
inline void depthwise_tile(const Number* const* lines, int64_t column, const Number* weights, Vec bias, Out* out,
                           int64_t out_pixel, bool activate, int count) {
  Register start[kRegisters], sums[kTile][kRegisters];
  std::memcpy(start, &bias, sizeof(bias));
#pragma GCC unroll 14
  for (int i = 0; i < kTile; ++i)
#pragma GCC unroll 4
    for (int k = 0; k < kRegisters; ++k) sums[i][k] = start[k];
  for (int row = 0; row < kSize; ++row) {
    const Number* line = lines[row] + column * kLanes;
#pragma GCC unroll 7
    for (int index = 0; index < kSize; ++index) {
      const Number* from = weights + (row * kSize + index) * kLanes;
#pragma GCC unroll 4
      for (int k = 0; k < kRegisters; ++k) {
        const Register weight = load_register(from + k * kRegisterLanes);
#pragma GCC unroll 14
        for (int i = 0; i < kTile; ++i)
          sums[i][k] += weight * load_register(line + (i + index) * kLanes + k * kRegisterLanes);
      }
    }
  }
  Vec values[kTile];  // as in product_tile()
#pragma GCC unroll 14
  for (int i = 0; i < kTile; ++i) values[i] = joined_registers(sums[i]);
  asm volatile("" ::: "memory");
  for (int i = 0; i < kTile; ++i) {
    const Vec value = activate ? gelu(values[i]) : values[i];
    store_some(out + (column + i) * out_pixel, value, count);
  }
}

// A row of kLanes channels from kSize lines, each with kSize / 2 additional columns at both ends.
template <int kSize, class Out>
inline void depthwise_row(const Number* const* lines, int64_t columns, const Number* weights, Vec bias, Out* out,
                          int64_t out_pixel, bool activate, int count) {
  int64_t column = 0;
  auto tile = [&](auto width) {
    constexpr int kTile = decltype(width)::value;
    for (; column + kTile <= columns; column += kTile)
      depthwise_tile<kSize, kTile>(lines, column, weights, bias, out, out_pixel, activate, count);
  };
  if constexpr (kRegisters == 1) {
    tile(std::integral_constant<int, 14>{});
    tile(std::integral_constant<int, 7>{});
  } else {
    tile(std::integral_constant<int, 6>{});
  }
  tile(std::integral_constant<int, 3>{});
  tile(std::integral_constant<int, 1>{});
}

// Rows `first` to `last` of kLanes channels of an image.
template <int kSize, class In, class Out>
void depthwise_rows(const Depthwise<In, Out>& job, int64_t image, int64_t channel, int64_t first, int64_t last) {
  constexpr int kPad = kSize / 2;
  const int64_t width = job.map.columns + 2 * kPad;
  const int count = lanes(job.map.channels - channel);
  thread_local Scratch scratch;
  Number* buffer = scratch.numbers((kSize * width + kSize * kSize) * kLanes);
  std::fill_n(buffer, kSize * width * kLanes, Number(0));  // the margins stay 0
  Number* weights = buffer + kSize * width * kLanes;
  for (int index = 0; index < kSize * kSize; ++index)
    store(weights + index * kLanes,
          load_some(job.kernel + image * job.kernel_image + index * job.kernel_pixel + channel, count));
  const Vec bias = load_some(job.bias + image * job.bias_image + channel, count);

  auto fetch = [&](int64_t row) {  // copies the row to its slot of kSize
    Number* line = buffer + ((row + kSize) % kSize) * width * kLanes + kPad * kLanes;
    if (row < 0 || row >= job.map.rows) {
      std::fill(line, line + job.map.columns * kLanes, Number(0));
      return;
    }
    const In* from = job.in + image * job.in_image + row * job.map.columns * job.in_pixel + channel;
    for (int64_t column = 0; column < job.map.columns; ++column)
      store(line + column * kLanes, load_some(from + column * job.in_pixel, count));
  };
  for (int64_t row = first - kPad; row < first + kPad; ++row) fetch(row);
  for (int64_t row = first; row < last; ++row) {
    fetch(row + kPad);
    const Number* lines[kSize];
    for (int i = 0; i < kSize; ++i) lines[i] = buffer + ((row - kPad + i + kSize) % kSize) * width * kLanes;
    Out* out = job.out + image * job.out_image + row * job.map.columns * job.out_pixel + channel;
    depthwise_row<kSize>(lines, job.map.columns, weights, bias, out, job.out_pixel, job.activate, count);
  }
}

template <class In, class Out>
void depthwise_rows(const Depthwise<In, Out>& job, int size, int64_t image, int64_t channel, int64_t first,
                    int64_t last) {
  switch (size) {
    case 1: return depthwise_rows<1>(job, image, channel, first, last);
    case 3: return depthwise_rows<3>(job, image, channel, first, last);
    case 5: return depthwise_rows<5>(job, image, channel, first, last);
    case 7: return depthwise_rows<7>(job, image, channel, first, last);
  }
}

template <class In, class Out>
void depthwise(const Depthwise<In, Out>& job, int size, int threads) {
  const int64_t blocks = (job.map.channels + kLanes - 1) / kLanes;
  // Bands of rows, so that all threads have work; a band reads its neighbours' edges again.
  const int64_t wanted = std::max<int64_t>(1, 4 * threads / std::max<int64_t>(1, blocks * job.map.images));
  const int64_t bands = std::min(wanted, std::max<int64_t>(1, job.map.rows / (2 * size)));
#pragma omp parallel for collapse(3) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < job.map.images; ++image)
    for (int64_t band = 0; band < bands; ++band)
      for (int64_t block = 0; block < blocks; ++block)
        depthwise_rows(job, size, image, block * kLanes, job.map.rows * band / bands,
                       job.map.rows * (band + 1) / bands);
}

// A convolution of any size and stride, padded by half its size, followed by GELU and an affine map, for small maps.
//
// kernel: (size * size, channels), the others (channels).
struct Reduction {
  int64_t size, stride;
  const Number *kernel, *bias, *scale, *shift;
};

inline int64_t reduced(int64_t length, int64_t stride) { return (length + stride - 1) / stride; }

inline void reduce(const Map& map, const Number* in, int64_t in_pixel, const Reduction& job, Number* out, int threads) {
  const int64_t rows = reduced(map.rows, job.stride), columns = reduced(map.columns, job.stride), pad = job.size / 2;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < map.images; ++image)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        for (int64_t channel = 0; channel < map.channels; channel += kLanes) {
          const int count = lanes(map.channels - channel);
          const int64_t top = row * job.stride - pad, left = column * job.stride - pad;
          Vec sum = load_some(job.bias + channel, count);
          for (int64_t y = std::max<int64_t>(0, -top); y < std::min(job.size, map.rows - top); ++y) {
            const Number* from = in + (image * map.pixels() + (top + y) * map.columns + left) * in_pixel + channel;
            const Number* weights = job.kernel + y * job.size * map.channels + channel;
            for (int64_t x = std::max<int64_t>(0, -left); x < std::min(job.size, map.columns - left); ++x)
              sum += load_some(from + x * in_pixel, count) * load_some(weights + x * map.channels, count);
          }
          sum = gelu(sum) * load_some(job.scale + channel, count) + load_some(job.shift + channel, count);
          store_some(out + ((image * rows + row) * columns + column) * map.channels + channel, sum, count);
        }
}
