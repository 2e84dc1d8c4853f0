// Products with a matrix, in registers from the first summand to what follows the last.
//
// A matrix (columns, inner) is stored in panels of kPanel columns: (columns / kPanel, inner, kPanel), the last
// one filled up with zeros.

#pragma once

#include <algorithm>
#include <vector>

#include "vectors.h"

constexpr int kPanel = 2 * kLanes;

inline int64_t panels_of(int64_t columns) { return (columns + kPanel - 1) / kPanel; }

// Summands of a row: the first `inner` numbers of it, and `extra` more after a gap.
struct Inner {
  int64_t inner, gap = 0, extra = 0;
};

// Calls finish(value, row, column, count) for each sixteen sums of kRows rows and kVectors * 16 columns.
template <int kRows, int kVectors, class Finish>
inline void product_tile(const float* in, int64_t in_row, Inner length, const float* weight, int64_t columns,
                         int64_t row, int64_t column, const Finish& finish) {
  Vec sums[kRows][kVectors];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) sums[i][j] = Vec{};
  const auto add = [&](const float* from, const float* weight_rows, int64_t count) ALWAYS_INLINE_LAMBDA {
    for (int64_t k = 0; k < count; ++k) {
      Vec weights[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) weights[j] = load(weight_rows + k * kPanel + j * kLanes);
#pragma GCC unroll 14
      for (int i = 0; i < kRows; ++i) {
        const Vec value = all(from[i * in_row + k]);
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) sums[i][j] += value * weights[j];
      }
    }
  };
  add(in, weight, length.inner);
  if (length.extra) add(in + length.inner + length.gap, weight + length.inner * kPanel, length.extra);
  Vec values[kVectors][kRows];  // in memory: the loop below is long and would keep the sums out of registers
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) values[j][i] = sums[i][j];
  asm volatile("" ::: "memory");
  for (int j = 0; j < kVectors; ++j) {
    const int64_t first = column + j * kLanes;
    const int count = lanes(columns - first);
    if (count == kLanes)
      for (int i = 0; i < kRows; ++i) finish(values[j][i], row + i, first, kLanes);
    else
      for (int i = 0; i < kRows; ++i) finish(values[j][i], row + i, first, count);
  }
}

template <int kVectors, class Finish>
inline void product_panel(const float* in, int64_t in_row, Inner inner, const float* weight, int64_t columns,
                          int64_t first, int64_t last, int64_t column, const Finish& finish) {
  int64_t row = first;
  auto tile = [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    for (; row + kRows <= last; row += kRows)
      product_tile<kRows, kVectors>(in + (row - first) * in_row, in_row, inner, weight, columns, row, column, finish);
  };
  tile(std::integral_constant<int, 14>{});
  tile(std::integral_constant<int, 7>{});
  tile(std::integral_constant<int, 3>{});
  tile(std::integral_constant<int, 1>{});
}

// The rows first to last, of which the first is at `in`, with some of the panels.
template <class Finish>
inline void product_rows(const float* in, int64_t in_row, int64_t inner, const float* weight, int64_t columns,
                         int64_t first, int64_t last, int64_t first_panel, int64_t last_panel, const Finish& finish) {
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const float* weights = weight + panel * inner * kPanel;
    const int64_t column = panel * kPanel;
    if (columns - column > kLanes)
      product_panel<2>(in, in_row, Inner{inner}, weights, columns, first, last, column, finish);
    else
      product_panel<1>(in, in_row, Inner{inner}, weights, columns, first, last, column, finish);
  }
}

// All rows, shared among threads. rows_of(first, last, scratch, step) returns where those rows are, in float32, perhaps
// in the scratch memory, and sets the elements from one to the next.
template <class Rows, class Finish>
void product(int64_t rows, int64_t inner, int64_t columns, const float* weight, const Rows& rows_of,
             const Finish& finish, int threads) {
  const int64_t panels = panels_of(columns);
  const int64_t step = 56;  // rows of a task: their inputs stay in the cache for all panels
  const int64_t blocks = (rows + step - 1) / step;
  const int64_t shares = std::min(panels, std::max<int64_t>(1, 4 * threads / blocks));  // of the panels, if rows are few
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t share = 0; share < shares; ++share)
    for (int64_t block = 0; block < blocks; ++block) {
      thread_local Scratch scratch;
      const int64_t first = block * step, last = std::min(rows, first + step);
      int64_t in_row;
      const float* in = rows_of(first, last, scratch, in_row);
      product_rows(in, in_row, inner, weight, columns, first, last, panels * share / shares,
                   panels * (share + 1) / shares, finish);
    }
}

// Rows of a map as product() takes them.
template <class T>
struct Rows {
  const T* in;
  int64_t pixel, channels;

  const float* operator()(int64_t first, int64_t last, Scratch& scratch, int64_t& step) const {
    const T* from = in + first * pixel;
    if constexpr (std::is_same_v<T, float>) {
      step = pixel;
      return from;
    } else {
      step = (channels + kLanes - 1) / kLanes * kLanes;
      float* buffer = scratch.floats((last - first) * step);
      for (int64_t row = 0; row < last - first; ++row)
        for (int64_t channel = 0; channel < channels; channel += kLanes)
          store(buffer + row * step + channel, load_some(from + row * pixel + channel, lanes(channels - channel)));
      return buffer;
    }
  }
};
