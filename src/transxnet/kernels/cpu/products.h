// Matrix products, kept in registers from the first summand to the operations after the last.
//
// A matrix (columns, inner) is stored in panels of kPanel columns: (columns / kPanel, inner / kPair, kPanel, kPair), with
// zeros where columns or summands are fewer. In float16 kPair is 2: a word of the input is broadcast to all columns,
// and even and odd summands are summed separately.

#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "vectors.h"

constexpr int kPanel = 2 * kFloats;

// Maximum number of consecutive sums in float16.
constexpr int64_t kSummands = 128;

inline int64_t panels_of(int64_t columns) { return (columns + kPanel - 1) / kPanel; }
inline int64_t paired(int64_t inner) { return (inner + kPair - 1) / kPair * kPair; }

// Rows of summands: kLanes of all rows are contiguous, then the next ones. A fixed stride between rows saves address
// registers.
struct Input {
  const Number* at;
  int64_t block;  // distance in numbers between kLanes summands and the next ones
};

// More summands of each row, contiguous; their part of the matrix follows the others'.
struct Extra {
  const Number* at;
  int64_t row, count;
};
struct NoExtra {};

// Running sums of kRows rows and kVectors * 16 columns.
template <int kRows, int kVectors>
struct Sums {
  Register at[kRows][kVectors][kRegisters];

  ALWAYS_INLINE void clear() {
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 4
        for (int k = 0; k < kRegisters; ++k) at[i][j][k] = Register{};
  }

  // One summand of each row, or a pair; `last`: half a pair.
  ALWAYS_INLINE void add(const Number* from, int64_t row, const Number* weight, bool last = false) {
    Register weights[kVectors][kRegisters];
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 4
      for (int k = 0; k < kRegisters; ++k) weights[j][k] = load_register(weight + j * kLanes + k * kRegisterLanes);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      const Register value = spread_register(from + i * row, last);
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j)
#pragma GCC unroll 4
        for (int k = 0; k < kRegisters; ++k) at[i][j][k] += value * weights[j][k];
    }
  }
};

// Calls finish(value, row, column, count) for each kLanes sums of kRows rows and kVectors * 16 columns.
template <int kRows, int kVectors, class More, class Finish>
inline void product_tile(const Input& in, const More& more, int64_t inner, const Number* weight, int64_t columns,
                         int64_t row, int64_t column, const Finish& finish) {
  constexpr int kParts = kPair == 1 ? kVectors : 1;  // in float16 two are merged into one
  Vec values[kParts][kRows];  // in memory: the long loop at the end would otherwise evict the sums from registers
  Sums<kRows, kVectors> sums;
  sums.clear();
  const auto finished = [&](int i, int part) ALWAYS_INLINE_LAMBDA {
    if constexpr (kPair == 1)
      return joined_registers(sums.at[i][part]);
    else
      return joined(sums.at[i][0][0], kVectors == 2 ? sums.at[i][1][0] : Vec{});
  };
  int64_t added = 0;
  bool drained = false;
  const auto drain = [&]() ALWAYS_INLINE_LAMBDA {  // so that small summands are not lost in a large sum
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) values[0][i] = drained ? values[0][i] + finished(i, 0) : finished(i, 0);
    sums.clear();
    drained = true;
    added = 0;
  };
  const auto add = [&](const Number* from, int64_t step, int64_t count) ALWAYS_INLINE_LAMBDA {
    int64_t k = 0;
    for (; k + kPair <= count; k += kPair, weight += kPair * kPanel) sums.add(from + k, step, weight);
    if (k < count) sums.add(from + k, step, weight, true), weight += kPair * kPanel;
  };
  const Number* from = in.at;
  int64_t left = inner;
  for (; left >= kLanes; left -= kLanes, from += in.block) {
    for (int k = 0; k < kLanes; k += kPair, weight += kPair * kPanel) sums.add(from + k, kLanes, weight);
    if (kPair > 1 && (added += kLanes) >= kSummands) drain();
  }
  add(from, kLanes, left);
  if constexpr (std::is_same_v<More, Extra>) add(more.at, more.row, more.count);
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < kParts; ++j) {
      const Vec value = finished(i, j);
      values[j][i] = kPair > 1 && drained ? values[j][i] + value : value;
    }
  asm volatile("" ::: "memory");
  for (int j = 0; j < kParts; ++j) {
    const int64_t first = column + j * kLanes;
    const int count = lanes(columns - first);
    if (count == kLanes)
      for (int i = 0; i < kRows; ++i) finish(values[j][i], row + i, first, kLanes);
    else
      for (int i = 0; i < kRows; ++i) finish(values[j][i], row + i, first, count);
  }
}

template <int kVectors, class More, class Finish>
inline void product_panel(const Input& in, const More& more, int64_t inner, const Number* weight, int64_t columns,
                          int64_t first, int64_t last, int64_t column, const Finish& finish) {
  int64_t row = first;
  auto tile = [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    for (; row + kRows <= last; row += kRows) {
      More here = more;
      if constexpr (std::is_same_v<More, Extra>) here.at += (row - first) * more.row;
      product_tile<kRows, kVectors>(Input{in.at + (row - first) * kLanes, in.block}, here, inner, weight, columns, row,
                                    column, finish);
    }
  };
  if constexpr (kRegisters == 1) {
    tile(std::integral_constant<int, 14>{});
    tile(std::integral_constant<int, 7>{});
  }
  tile(std::integral_constant<int, 3>{});
  tile(std::integral_constant<int, 1>{});
}

// Rows `first` to `last`, of which the first is at `in.at`, with some of the panels.
template <class Finish>
inline void product_rows(const Input& in, int64_t inner, const Number* weight, int64_t columns, int64_t first,
                         int64_t last, int64_t first_panel, int64_t last_panel, const Finish& finish) {
  for (int64_t panel = first_panel; panel < last_panel; ++panel) {
    const Number* weights = weight + panel * paired(inner) * kPanel;
    const int64_t column = panel * kPanel;
    if (columns - column > kFloats)
      product_panel<2>(in, NoExtra{}, inner, weights, columns, first, last, column, finish);
    else
      product_panel<1>(in, NoExtra{}, inner, weights, columns, first, last, column, finish);
  }
}

// All rows, distributed to threads. rows_of(first, last, scratch) returns the rows, possibly written to the scratch
// buffer.
template <class Rows, class Finish>
void product(int64_t rows, int64_t inner, int64_t columns, const Number* weight, const Rows& rows_of,
             const Finish& finish, int threads) {
  const int64_t panels = panels_of(columns);
  const int64_t step = 56;  // rows per task: their inputs stay in the cache for all panels
  const int64_t blocks = (rows + step - 1) / step;
  const int64_t shares = std::min(panels, std::max<int64_t>(1, 4 * threads / blocks));  // for few rows
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t share = 0; share < shares; ++share)
    for (int64_t block = 0; block < blocks; ++block) {
      thread_local Scratch scratch;
      const int64_t first = block * step, last = std::min(rows, first + step);
      product_rows(rows_of(first, last, scratch), inner, weight, columns, first, last, panels * share / shares,
                   panels * (share + 1) / shares, finish);
    }
}

// Rows of a map, `step` apart, in Input's layout.
template <class T>
inline void pack_rows(const T* from, int64_t step, int64_t rows, int64_t inner, Number* to) {
  for (int64_t row = 0; row < rows; ++row, from += step)
    for (int64_t k = 0; k < inner; k += kLanes)
      store(to + k * rows + row * kLanes, load_some(from + k, lanes(inner - k)));
}

inline int64_t filled(int64_t inner) { return (inner + kLanes - 1) / kLanes * kLanes; }

// Rows of a map in product()'s layout.
struct Rows {
  const Number* in;
  int64_t pixel, inner;

  Input operator()(int64_t first, int64_t last, Scratch& scratch) const {
    const int64_t rows = last - first;
    Number* buffer = scratch.numbers(rows * filled(inner));
    pack_rows(in + first * pixel, pixel, rows, inner, buffer);
    return {buffer, rows * kLanes};
  }
};
