// Means and normalisation of maps.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "products.h"

ALWAYS_INLINE int floats(int64_t left) { return left < kFloats ? static_cast<int>(left) : kFloats; }

struct Map {
  int64_t images, rows, columns, channels;
  int64_t pixels() const { return rows * columns; }
};

// Mean and reciprocal deviation of each image, over all channels and pixels. Means and sums of squared deviations of
// pieces of an image are merged in float64: large means lose no precision.
template <class T>
void statistics(const Map& map, const T* in, float epsilon, float* means_out, float* factors_out, int threads) {
  const int64_t pixels = map.pixels(), channels = map.channels;
  const int64_t step = std::max<int64_t>(1, 8192 / channels);  // pixels of a piece
  const int64_t pieces = (pixels + step - 1) / step;
  std::vector<double> means(map.images * pieces), squares(map.images * pieces);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (int64_t image = 0; image < map.images; ++image)
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t first = piece * step, last = std::min(pixels, first + step);
      const T* from = in + (image * pixels + first) * channels;
      const int64_t count = (last - first) * channels, fours = count / (4 * kFloats) * (4 * kFloats);
      FloatVec sums[4] = {};
      for (int64_t i = 0; i < fours; i += 4 * kFloats)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) sums[j] += load_float(from + i + j * kFloats);
      for (int64_t i = fours; i < count; i += kFloats) sums[0] += load_float_some(from + i, floats(count - i));
      const float mean = sum_of((sums[0] + sums[1]) + (sums[2] + sums[3])) / count;
      FloatVec around[4] = {};
      for (int64_t i = 0; i < fours; i += 4 * kFloats)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const FloatVec difference = load_float(from + i + j * kFloats) - mean;
          around[j] += difference * difference;
        }
      double squared = sum_of((around[0] + around[1]) + (around[2] + around[3]));
      for (int64_t i = fours; i < count; i += kFloats)
        for (int j = 0; j < floats(count - i); ++j) {
          const float difference = load_float_some(from + i, floats(count - i))[j] - mean;
          squared += static_cast<double>(difference) * difference;
        }
      means[image * pieces + piece] = mean;
      squares[image * pieces + piece] = squared;
    }
  for (int64_t image = 0; image < map.images; ++image) {
    auto size = [&](int64_t piece) { return static_cast<double>(std::min(pixels, (piece + 1) * step) - piece * step); };
    double mean = 0, squared = 0;
    for (int64_t piece = 0; piece < pieces; ++piece) mean += means[image * pieces + piece] * size(piece);
    mean /= pixels;
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const double off = means[image * pieces + piece] - mean;
      squared += squares[image * pieces + piece] + size(piece) * channels * off * off;
    }
    means_out[image] = static_cast<float>(mean);
    factors_out[image] = static_cast<float>(1.0 / std::sqrt(squared / (pixels * channels) + epsilon));
  }
}

// Normalisation of rows of pixels, with a weight and a bias for each channel.
template <class T>
struct Normalised {
  Map map;
  const T* in;
  const float *means, *factors;
  const Number *weight, *bias;

  // Rows `first` to `last` of all images' pixels, with strides `pixel` of pixels and `block` of kLanes channels.
  void operator()(int64_t first, int64_t last, Number* out, int64_t pixel, int64_t block = kLanes) const {
    for (int64_t row = first; row < last; ++row) {
      const int64_t image = row / map.pixels();
      const float mean = means[image], factor = factors[image];
      const T* from = in + row * map.channels;
      Number* to = out + (row - first) * pixel;
      for (int64_t channel = 0; channel < map.channels; channel += kLanes, to += block) {
        const int count = lanes(map.channels - channel);
        const Floats scale = to_floats(load_some(weight + channel, count)) * factor;
        const Floats value = (load_floats_some(from + channel, count) - mean) * scale;
        store_some(to, to_vec(value + to_floats(load_some(bias + channel, count))), count);
      }
    }
  }

  Input operator()(int64_t first, int64_t last, Scratch& scratch) const {
    const int64_t block = (last - first) * kLanes;
    Number* buffer = scratch.numbers((last - first) * filled(map.channels));
    (*this)(first, last, buffer, kLanes, block);
    return {buffer, block};
  }
};

// The means of an image's size * size bins, as in adaptive average pooling, and finally of the whole image:
// (images, size * size + 1, channels).
inline void pool(const Map& map, const Number* in, int64_t in_pixel, int64_t in_image, Number* out, int size, int threads) {
  const int64_t positions = static_cast<int64_t>(size) * size + 1;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < map.images; ++image)
    for (int64_t channel = 0; channel < map.channels; channel += kLanes) {
      const int count = lanes(map.channels - channel);
      auto mean = [&](int64_t top, int64_t bottom, int64_t left, int64_t right, int64_t position) {
        Floats sum{};
        for (int64_t row = top; row < bottom; ++row) {
          Floats line{};  // sums of lines first: a single sum over a large map would lose precision
          const Number* from = in + image * in_image + (row * map.columns + left) * in_pixel + channel;
          for (int64_t column = left; column < right; ++column, from += in_pixel) line += to_floats(load_some(from, count));
          sum += line;
        }
        sum = sum * (1.0f / static_cast<float>((bottom - top) * (right - left)));
        store_some(out + (image * positions + position) * map.channels + channel, to_vec(sum), count);
        return sum;
      };
      Floats total{};
      for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j)
          total += mean(i * map.rows / size, ((i + 1) * map.rows + size - 1) / size, j * map.columns / size,
                        ((j + 1) * map.columns + size - 1) / size, i * size + j);
      if (map.rows % size == 0 && map.columns % size == 0)  // the bins partition the map
        store_some(out + (image * positions + positions - 1) * map.channels + channel,
                   to_vec(total * (1.0f / static_cast<float>(size * size))), count);
      else
        mean(0, map.rows, 0, map.columns, positions - 1);
    }
}
