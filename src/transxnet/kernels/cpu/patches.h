// Convolutions with little overlap, such as patch embeddings, as matrix products with patches of the map.

#pragma once

#include "block.h"

struct Convolution {  // matrix: summands are (row of the kernel, column, channel)
  Matrix matrix;
  int64_t size, stride, padding;
};

// The pixels of a patch, in product()'s layout.
template <class T>
struct Patches {
  const Convolution& job;
  Map map;  // of the input
  const T* in;
  int64_t rows, columns;  // of the output

  Input operator()(int64_t first, int64_t last, Scratch& scratch) const {
    const int64_t count = last - first, inner = job.matrix.inner, wide = filled(inner), line = job.size * map.channels;
    Number* buffer = scratch.numbers(count * 2 * wide);
    Number* seen = buffer + count * wide;
    for (int64_t index = first; index < last; ++index, seen += wide) {
      const int64_t image = index / (rows * columns), pixel = index % (rows * columns);
      const int64_t top = pixel / columns * job.stride - job.padding, left = pixel % columns * job.stride - job.padding;
      const int64_t skipped = std::max<int64_t>(0, -left), end = std::min(job.size, map.columns - left);
      for (int64_t y = 0; y < job.size; ++y) {
        Number* to = seen + y * line;
        const int64_t row = top + y;
        if (row < 0 || row >= map.rows || skipped >= end) {
          std::fill_n(to, line, Number(0));
          continue;
        }
        std::fill_n(to, skipped * map.channels, Number(0));
        std::fill(to + end * map.channels, to + line, Number(0));
        const T* from = in + (image * map.pixels() + row * map.columns + left) * map.channels;
        for (int64_t k = skipped * map.channels; k < end * map.channels; k += kLanes) {
          const int some = lanes(end * map.channels - k);
          store_some(to + k, load_some(from + k, some), some);
        }
      }
    }
    pack_rows(buffer + count * wide, wide, count, inner, buffer);
    return {buffer, count * kLanes};
  }
};

template <class T>
void convolve(const Convolution& job, const Map& map, const T* in, T* out, int threads) {
  const int64_t rows = (map.rows + 2 * job.padding - job.size) / job.stride + 1;
  const int64_t columns = (map.columns + 2 * job.padding - job.size) / job.stride + 1, channels = job.matrix.columns;
  const Number* bias = job.matrix.bias;
  product(map.images * rows * columns, job.matrix.inner, channels, job.matrix.weight,
          Patches<T>{job, map, in, rows, columns},
          [=](Vec value, int64_t row, int64_t column, int count) {
            store_some(out + row * channels + column, value + load_some(bias + column, count), count);
          },
          threads);
}
