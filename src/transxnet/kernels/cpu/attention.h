// Attention with a position bias, a few queries at a time, without a map of all queries and keys.

#pragma once

#include <algorithm>
#include <vector>

#include "products.h"
#include "vectors.h"

// q, k, v and out have a pixel's channels contiguous, head after head. The bias is a map (heads, queries, keys), or the
// product of rows (heads, queries, stored) and columns (keys, stored).
struct Attention {
  int64_t images, queries, keys, heads, width;
  const Number* q;
  int64_t q_pixel;
  const Number *k, *v;
  int64_t kv_pixel;
  Number* out;
  int64_t out_pixel;
  const Number* bias;
  const Number *rows, *columns;
  int64_t stored;

  int64_t inner() const { return paired(width) + paired(stored); }
  int64_t key_room() const { return panels_of(keys) * inner() * kPanel; }  // in numbers, per head of an image
  int64_t value_room() const { return panels_of(width) * paired(keys) * kPanel; }
  int64_t room() const { return images * heads * (key_room() + value_room()); }
};

// The stored keys that contribute to the bias of a panel's keys: a resized bias's columns are mostly 0.
struct Range {
  int64_t first, count;
};

inline std::vector<Range> ranges_of(const Attention& job) {
  std::vector<Range> ranges(panels_of(job.keys), Range{0, 0});
  for (int64_t panel = 0; job.stored && panel < panels_of(job.keys); ++panel) {
    int64_t low = job.stored, high = 0;
    for (int64_t key = panel * kPanel; key < std::min(job.keys, (panel + 1) * kPanel); ++key)
      for (int64_t i = 0; i < job.stored; ++i)
        if (job.columns[key * job.stored + i] != Number(0)) low = std::min(low, i), high = std::max(high, i + 1);
    if (low < high) ranges[panel] = {low, high - low};
  }
  return ranges;
}

// Offset of a column's summand from the first column of a packed panel.
inline int64_t packed_at(int64_t index, int64_t column) {
  return (index / kPair * kPanel + column) * kPair + index % kPair;
}

// Stores an image's keys of a head, with the bias's columns below them, in the layout of products.h; `to` has
// key_room() numbers.
inline void pack_keys(const Attention& job, const std::vector<Range>& ranges, int64_t image, int64_t head, Number* to) {
  std::fill_n(to, job.key_room(), Number(0));
  for (int64_t index = 0; index < job.keys; ++index) {
    const Number* from = job.k + (image * job.keys + index) * job.kv_pixel + head * job.width;
    Number* panel = to + index / kPanel * job.inner() * kPanel;
    for (int64_t i = 0; i < job.width; ++i) panel[packed_at(i, index % kPanel)] = from[i];
    const Range range = ranges[index / kPanel];
    for (int64_t i = 0; i < range.count; ++i)
      panel[packed_at(paired(job.width) + i, index % kPanel)] = job.columns[index * job.stored + range.first + i];
  }
}

inline void pack_values(const Attention& job, int64_t image, int64_t head, Number* to) {
  std::fill_n(to, job.value_room(), Number(0));
  for (int64_t index = 0; index < job.keys; ++index) {
    const Number* from = job.v + (image * job.keys + index) * job.kv_pixel + head * job.width;
    for (int64_t i = 0; i < job.width; ++i)
      to[i / kPanel * paired(job.keys) * kPanel + packed_at(index, i % kPanel)] = from[i];
  }
}

constexpr int kQueries = 56;  // maximum of a task

// The scores of queries `first` to `last`, stored at `q` as an Input, with the bias, stored as rows of an Input.
inline void score_rows(const Attention& job, const std::vector<Range>& ranges, const Number* keys, int64_t head,
                       int64_t first, int64_t last, const Number* q, Number* scores) {
  const int64_t count = last - first, block = count * kLanes;
  const Number* bias = job.bias ? job.bias + (head * job.queries + first) * job.keys : nullptr;
  for (int64_t panel = 0; panel < panels_of(job.keys); ++panel) {
    const Number* weights = keys + panel * job.inner() * kPanel;
    const auto finish = [=, keys = job.keys](Vec value, int64_t row, int64_t column, int some) {
      if (bias) value += load_some(bias + row * keys + column, some);
      store_some(scores + column / kLanes * block + row * kLanes, value, some);
    };
    Extra more{nullptr, job.stored, ranges[panel].count};
    if (more.count) more.at = job.rows + (head * job.queries + first) * job.stored + ranges[panel].first;
    if (job.keys - panel * kPanel > kFloats)
      product_panel<2>(Input{q, block}, more, job.width, weights, job.keys, 0, count, panel * kPanel, finish);
    else
      product_panel<1>(Input{q, block}, more, job.width, weights, job.keys, 0, count, panel * kPanel, finish);
  }
}

// The exponentials of a row's scores minus the largest; each kLanes scores are `block` after the previous ones. Returns
// the factor that normalises them.
inline float softmax(Number* score, int64_t keys, int64_t room, int64_t block) {
  const int64_t whole = keys / kLanes * kLanes;
  Number* end = score + keys / kLanes * block;
  for (int64_t i = keys; i < room; ++i) end[i % kLanes] = Number(-60000.0f);
  Floats most = to_floats(load(score));
  for (int64_t i = kLanes; i < room; i += kLanes) most = larger(to_floats(load(score + i / kLanes * block)), most);
  const float largest = largest_of(most);
  Floats sum{};
  for (int64_t i = 0; i < room; i += kLanes) {
    Number* at = score + i / kLanes * block;
    const Floats power = exponential(to_floats(load(at)) - largest);
    store(at, to_vec(power));
    if (i < whole) sum += power;
  }
  float total = sum_of(sum);
  for (int64_t i = whole; i < keys; ++i) total += end[i % kLanes];
  return 1.0f / total;
}

inline void attend_rows(const Attention& job, const std::vector<Range>& ranges, const Number* keys,
                        const Number* values, int64_t image, int64_t head, int64_t first, int64_t last) {
  thread_local Scratch scratch;
  const int64_t count = last - first, room = filled(job.keys), block = count * kLanes;
  Number* scores = scratch.numbers(count * (room + filled(job.width)));
  Number* q = scores + count * room;
  pack_rows(job.q + (image * job.queries + first) * job.q_pixel + head * job.width, job.q_pixel, count, job.width, q);
  score_rows(job, ranges, keys, head, first, last, q, scores);
  float factors[kQueries];
  for (int64_t row = 0; row < count; ++row) factors[row] = softmax(scores + row * kLanes, job.keys, room, block);
  Number* out = job.out + (image * job.queries + first) * job.out_pixel + head * job.width;
  product_rows(Input{scores, block}, job.keys, values, job.width, 0, count, 0, panels_of(job.width),
               [&](Vec value, int64_t row, int64_t column, int some) {
                 store_some(out + row * job.out_pixel + column, to_vec(to_floats(value) * factors[row]), some);
               });
}

// `space` is a scratch buffer of room() numbers.
inline void attend(const Attention& job, Number* space, int threads) {
  Number *keys = space, *values = space + job.images * job.heads * job.key_room();
  const std::vector<Range> ranges = ranges_of(job);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (int64_t image = 0; image < job.images; ++image)
    for (int64_t head = 0; head < job.heads; ++head) {
      pack_keys(job, ranges, image, head, keys + (image * job.heads + head) * job.key_room());
      pack_values(job, image, head, values + (image * job.heads + head) * job.value_room());
    }
  const int64_t fitting = 65536 * kPair / (job.keys + 1) / 14 * 14;  // rows whose scores stay in the cache
  const int64_t step = std::clamp<int64_t>(fitting, 14, kQueries);
  const int64_t blocks = (job.queries + step - 1) / step;
#pragma omp parallel for collapse(3) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < job.images; ++image)
    for (int64_t head = 0; head < job.heads; ++head)
      for (int64_t block = 0; block < blocks; ++block)
        attend_rows(job, ranges, keys + (image * job.heads + head) * job.key_room(),
                    values + (image * job.heads + head) * job.value_room(), image, head, block * step,
                    std::min(job.queries, (block + 1) * step));
}
