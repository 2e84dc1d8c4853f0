// Gradients of attention. Scores are recomputed for some queries at a time; none are stored.

#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"

// gradient: of the output, in its layout. q_gradient: in the layout of q; k_gradient and v_gradient: (images, heads,
// keys, width) each; bias_gradient: of the map or of the rows, or null.
struct AttentionGradients {
  Attention job;
  const float* gradient;
  float *q_gradient, *k_gradient, *v_gradient, *bias_gradient;
};

// Packs a matrix (columns, inner) in the layout of products.h; columns are `step` numbers apart.
inline void pack_matrix(const float* from, int64_t step, int64_t columns, int64_t inner, float* to) {
  std::fill_n(to, panels_of(columns) * inner * kPanel, 0.0f);
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t i = 0; i < inner; ++i)
      to[(column / kPanel * inner + i) * kPanel + column % kPanel] = from[column * step + i];
}

// The same for its transpose: summands are `step` numbers apart.
inline void pack_transposed(const float* from, int64_t step, int64_t columns, int64_t inner, float* to) {
  std::fill_n(to, panels_of(columns) * inner * kPanel, 0.0f);
  for (int64_t i = 0; i < inner; ++i)
    for (int64_t column = 0; column < columns; ++column)
      to[(column / kPanel * inner + i) * kPanel + column % kPanel] = from[i * step + column];
}

// sums (columns, width) += products of left (rows, columns) and right (rows, width), both in Input's layout, over all
// rows, for kVectors * 16 of the width from `first`.
template <int kVectors>
inline void add_outer(const Input& left, const Input& right, int64_t rows, int64_t columns, int64_t width,
                      int64_t first, float* sums) {
  constexpr int kColumns = 8;
  for (int64_t column = 0; column < columns; column += kColumns) {
    const float* from = left.at + column / kLanes * left.block + column % kLanes;
    Vec added[kColumns][kVectors] = {};
    for (int64_t row = 0; row < rows; ++row) {
      Vec values[kVectors];
#pragma GCC unroll 2
      for (int j = 0; j < kVectors; ++j) values[j] = load(right.at + (first / kLanes + j) * right.block + row * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kColumns; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) added[i][j] += all(from[row * kLanes + i]) * values[j];
    }
    for (int i = 0; i < std::min<int64_t>(kColumns, columns - column); ++i)
      for (int j = 0; j < kVectors; ++j) {
        float* to = sums + (column + i) * width + first + j * kLanes;
        const int count = lanes(width - first - j * kLanes);
        store_some(to, load_some(to, count) + added[i][j], count);
      }
  }
}

inline void add_outer(const Input& left, const Input& right, int64_t rows, int64_t columns, int64_t width,
                      float* sums) {
  for (int64_t first = 0; first < width; first += 2 * kLanes)
    if (width - first > kLanes)
      add_outer<2>(left, right, rows, columns, width, first, sums);
    else
      add_outer<1>(left, right, rows, columns, width, first, sums);
}

// A head of an image in the layouts of products.
struct PackedHead {
  std::vector<float> keys, values, transposed_keys;
};

// For queries `first` to `last` of a head of an image: computes their gradient, adds those of keys and values to
// `k_sums` and `v_sums`, and the scores' to `score_sums`, (keys / 16, kQueries, 16).
inline void attention_gradients(const AttentionGradients& all_of, const std::vector<Range>& ranges, const PackedHead& head,
                                int64_t image, int64_t index, int64_t first, int64_t last, float* k_sums, float* v_sums,
                                float* score_sums) {
  const Attention& job = all_of.job;
  thread_local Scratch scratch;
  const int64_t count = last - first, room = filled(job.keys), block = count * kLanes, wide = filled(job.width);
  float* scores = scratch.numbers(count * (2 * room + 2 * wide));
  float *changes = scores + count * room, *q = changes + count * room, *given = q + count * wide;
  const int64_t at = (image * job.queries + first) * job.out_pixel + index * job.width;
  const float *gradient = all_of.gradient + at, *out = job.out + at;
  pack_rows(job.q + (image * job.queries + first) * job.q_pixel + index * job.width, job.q_pixel, count, job.width, q);
  pack_rows(gradient, job.out_pixel, count, job.width, given);
  score_rows(job, ranges, head.keys.data(), index, first, last, q, scores);
  float means[kQueries];  // of the scores' gradients before the softmax
  for (int64_t row = 0; row < count; ++row) {
    const float factor = softmax(scores + row * kLanes, job.keys, room, block);
    for (int64_t i = 0; i < room; i += kLanes) {
      float* score = scores + i / kLanes * block + row * kLanes;
      store(score, i + kLanes <= job.keys ? load(score) * factor : load_some(score, lanes(job.keys - i)) * factor);
    }
    Vec product{};
    for (int64_t i = 0; i < job.width; i += kLanes) {
      const int some = lanes(job.width - i);
      product += load_some(gradient + row * job.out_pixel + i, some) * load_some(out + row * job.out_pixel + i, some);
    }
    means[row] = sum_of(product);
  }
  std::fill_n(changes + (room - kLanes) / kLanes * block, block, 0.0f);
  product_rows(Input{given, block}, job.width, head.values.data(), job.keys, 0, count, 0, panels_of(job.keys),
               [=](Vec value, int64_t row, int64_t column, int some) {
                 const int64_t here = column / kLanes * block + row * kLanes;
                 store_some(changes + here, load(scores + here) * (value - means[row]), some);
               });
  float* back = all_of.q_gradient + (image * job.queries + first) * job.q_pixel + index * job.width;
  product_rows(Input{changes, block}, job.keys, head.transposed_keys.data(), job.width, 0, count, 0,
               panels_of(job.width), [=, step = job.q_pixel](Vec value, int64_t row, int64_t column, int some) {
                 store_some(back + row * step + column, value, some);
               });
  add_outer(Input{changes, block}, Input{q, block}, count, job.keys, job.width, k_sums);
  add_outer(Input{scores, block}, Input{given, block}, count, job.keys, job.width, v_sums);
  if (!score_sums) return;
  for (int64_t i = 0; i < room; i += kLanes)
    for (int64_t row = 0; row < count; ++row) {
      float* to = score_sums + i * kQueries + row * kLanes;
      store(to, load(to) + load(changes + i / kLanes * block + row * kLanes));
    }
}

// The bias's gradient for some queries from that of the scores, (keys / 16, kQueries, 16).
inline void bias_gradients(const AttentionGradients& all_of, const std::vector<float>& columns, int64_t index,
                           int64_t first, int64_t count, const float* score_sums) {
  const Attention& job = all_of.job;
  if (job.stored) {
    float* to = all_of.bias_gradient + (index * job.queries + first) * job.stored;
    product_rows(Input{score_sums, kQueries * kLanes}, job.keys, columns.data(), job.stored, 0, count, 0,
                 panels_of(job.stored), [=, step = job.stored](Vec value, int64_t row, int64_t column, int some) {
                   store_some(to + row * step + column, value, some);
                 });
    return;
  }
  for (int64_t row = 0; row < count; ++row)
    for (int64_t i = 0; i < job.keys; i += kLanes)
      store_some(all_of.bias_gradient + (index * job.queries + first + row) * job.keys + i,
                 load(score_sums + i * kQueries + row * kLanes), lanes(job.keys - i));
}

// The partition of queries does not depend on the number of threads, so neither do the sums.
inline void attention_gradients(const AttentionGradients& all_of, int threads) {
  const Attention& job = all_of.job;
  const std::vector<Range> ranges = ranges_of(job);
  const int64_t blocks = (job.queries + kQueries - 1) / kQueries, parts = std::min<int64_t>(8, blocks);
  const int64_t heads = job.images * job.heads, sums = job.keys * job.width;
  std::vector<PackedHead> packed(heads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t index = 0; index < heads; ++index) {
    const int64_t from = index / job.heads * job.keys * job.kv_pixel + index % job.heads * job.width;
    PackedHead& head = packed[index];
    head.keys.resize(job.key_room());
    pack_keys(job, ranges, index / job.heads, index % job.heads, head.keys.data());
    head.values.resize(panels_of(job.keys) * job.width * kPanel);
    pack_matrix(job.v + from, job.kv_pixel, job.keys, job.width, head.values.data());
    head.transposed_keys.resize(panels_of(job.width) * job.keys * kPanel);
    pack_transposed(job.k + from, job.kv_pixel, job.width, job.keys, head.transposed_keys.data());
  }
  std::vector<float> columns;
  if (job.stored) {
    columns.resize(panels_of(job.stored) * job.keys * kPanel);
    pack_transposed(job.columns, job.stored, job.stored, job.keys, columns.data());
  }
  std::vector<float> k_sums(parts * heads * sums), v_sums(parts * heads * sums);
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t index = 0; index < job.heads; ++index)
    for (int64_t part = 0; part < parts; ++part) {
      std::vector<float> score_sums(all_of.bias_gradient ? filled(job.keys) * kQueries : 0);
      for (int64_t at = blocks * part / parts; at < blocks * (part + 1) / parts; ++at) {
        const int64_t first = at * kQueries, last = std::min(job.queries, first + kQueries);
        std::fill(score_sums.begin(), score_sums.end(), 0.0f);
        for (int64_t image = 0; image < job.images; ++image) {
          const int64_t head = image * job.heads + index, own = (part * heads + head) * sums;
          attention_gradients(all_of, ranges, packed[head], image, index, first, last, &k_sums[own], &v_sums[own],
                              all_of.bias_gradient ? score_sums.data() : nullptr);
        }
        if (all_of.bias_gradient) bias_gradients(all_of, columns, index, first, last - first, score_sums.data());
      }
    }
  for (int64_t i = 0; i < heads * sums; ++i) {
    float k = 0, v = 0;
    for (int64_t part = 0; part < parts; ++part) k += k_sums[part * heads * sums + i], v += v_sums[part * heads * sums + i];
    all_of.k_gradient[i] = k;
    all_of.v_gradient[i] = v;
  }
}
