// The constants of a fused block, and its scratch buffers.

#pragma once

#include "attention.h"
#include "depthwise.h"
#include "norms.h"
#include "products.h"

struct Matrix {  // packed as in products.h, and a bias
  const Number *weight, *bias;
  int64_t inner, columns;
};

struct Filter {  // a depthwise convolution: (size * size, channels) and (channels)
  const Number *kernel, *bias;
  int64_t size;
};

struct Norm {
  const Number *weight, *bias;
  float epsilon;
};

// MS-FFN's depthwise convolutions in blocks of kLanes channels: for each its size, the start of its kernel
// (size * size, kLanes), a bias, and the affine map before it. Smaller kernels of a block are padded with zeros.
struct Scales {
  int64_t blocks, halo;  // halo: half of the largest size
  const int64_t *sizes, *starts;
  const Number *kernels, *bias, *before_scale, *before_shift;
};

// Distance in numbers between lines of kLanes channels of the hidden map, which share the zeros between them.
inline int64_t hidden_line(const Scales& scales, int64_t columns) { return (columns + scales.halo) * kLanes; }

// The constants of a block. layouts.py has the same fields.
struct Block {
  int64_t channels, local, heads, groups, kernel_size;  // local: IDConv's channels, the first ones
  Filter position;
  Norm norm1;
  Matrix attention_squeeze, attention_scores;
  const Number* bank;  // (groups, kernel_size ** 2 + 1, local), the last one is the bias
  Matrix q, kv;
  Reduction reduction;  // its size is 0 without reduction
  Filter refinement, neighbours;
  Matrix squeeze, restore;
  const Number* identity;
  Norm norm2;
  Matrix expand, project;
  Scales scales;
};

struct Bias {
  const Number *map, *rows, *columns;
  int64_t stored;
};

// Scratch buffers of a block.
class Space {
 public:
  explicit Space(char* memory) : memory_(memory) {}
  template <class T>
  void take(T*& pointer, int64_t count) {
    pointer = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
  int64_t used() const { return used_; }

 private:
  char* memory_;
  int64_t used_ = 0;
};

struct Rooms {
  float *x, *means, *factors;
  Number *normed, *mixed, *pooled, *hidden, *scores, *kernels, *q, *reduced, *refined, *kv, *packed,
      *squeezed, *expanded, *scaled;
};

inline Attention attention_of(const Block& block, const Map& map, const Bias& bias, const Rooms& rooms) {
  const int64_t stride = block.reduction.size ? block.reduction.stride : 1, distant = block.channels - block.local;
  const int64_t keys = reduced(map.rows, stride) * reduced(map.columns, stride);
  return {map.images, map.pixels(), keys, block.heads, distant / block.heads, rooms.q, distant, rooms.kv,
          rooms.kv + distant, 2 * distant, rooms.mixed + block.local, block.channels, bias.map, bias.rows,
          bias.columns, bias.stored};
}

inline int64_t scores_of(const Block& block) { return block.attention_scores.columns; }

// Bands of rows in which MS-FFN is computed, so that its wide maps stay in the cache.
struct Bands {
  int64_t count, rows;  // bands per image, and rows computed at a time; with 0 bands, the maps are computed whole
  int64_t ring;  // rows of the expanded map in the ring buffer

  Bands(const Block& block, const Map& map, int threads) {
    const int64_t halo = block.scales.halo, wide = block.scales.blocks * kLanes;
    const int64_t expanded = hidden_line(block.scales, map.columns) * block.scales.blocks, scaled = map.columns * wide;
    count = std::max<int64_t>(1, (2 * threads + map.images - 1) / map.images);
    if (map.images % threads == 0 || map.images >= 4 * threads) count = 1;
    else if (map.rows < 12 * halo * count) count = std::max<int64_t>(1, (threads + map.images - 1) / map.images);
    const int64_t height = (map.rows + count - 1) / count, few = (56 + map.columns - 1) / map.columns;
    rows = height;
    if (std::min(map.rows, rows + 2 * halo) * expanded + rows * scaled > kCache)
      rows = std::min(height, std::max(few, (kCache - 2 * halo * expanded) / (expanded + scaled)));
    ring = std::min(map.rows, rows + 2 * halo);
    // Rows at the bands' borders are computed twice, and matrices larger than the cache are read for every few rows.
    if (count > 1 && height < 6 * halo) count = 0;
    if (ring * expanded + rows * scaled > kCache && rows * map.columns < 56) count = 0;
  }

  static constexpr int64_t kCache = kPair * 320 * 1024;  // in numbers: a core's cache
};

inline Rooms rooms_of(const Block& block, const Map& map, const Bias& bias, bool bands, Space& space) {
  const int64_t images = map.images, pixels = images * map.pixels(), local = block.local;
  const int64_t distant = block.channels - local, positions = block.kernel_size * block.kernel_size + 1;
  const int64_t stride = block.reduction.size ? block.reduction.stride : 1;
  const int64_t keys = images * reduced(map.rows, stride) * reduced(map.columns, stride);
  Rooms rooms{};
  space.take(rooms.x, pixels * block.channels);  // in the storage type, so possibly half of it is used
  space.take(rooms.means, images);
  space.take(rooms.factors, images);
  space.take(rooms.normed, pixels * block.channels);
  space.take(rooms.mixed, pixels * block.channels);
  space.take(rooms.pooled, images * positions * local);
  space.take(rooms.hidden, images * positions * block.attention_squeeze.columns);
  space.take(rooms.scores, images * positions * scores_of(block));
  space.take(rooms.kernels, images * positions * local);
  space.take(rooms.q, pixels * distant);
  space.take(rooms.reduced, keys * distant);
  space.take(rooms.refined, keys * distant);
  space.take(rooms.kv, keys * 2 * distant);
  space.take(rooms.packed, attention_of(block, map, bias, rooms).room());
  space.take(rooms.squeezed, pixels * block.squeeze.columns);
  if (!bands) {
    const int64_t wide = block.scales.blocks * kLanes;
    const int64_t more = block.scales.halo * kLanes;
    space.take(rooms.expanded, images * map.rows * hidden_line(block.scales, map.columns) * block.scales.blocks + more);
    space.take(rooms.scaled, pixels * wide);
  }
  return rooms;
}

// gelu(matrix of the rows), or without.
template <class Rows>
void product_to(int64_t rows, const Matrix& matrix, const Rows& from, Number* out, bool activate, int threads) {
  const auto finish = [&](bool active) {
    return [=](Vec value, int64_t row, int64_t column, int count) {
      value += load_some(matrix.bias + column, count);
      store_some(out + row * matrix.columns + column, active ? gelu(value) : value, count);
    };
  };
  if (activate)
    product(rows, matrix.inner, matrix.columns, matrix.weight, from, finish(true), threads);
  else
    product(rows, matrix.inner, matrix.columns, matrix.weight, from, finish(false), threads);
}

inline void depthwise_of(const Map& map, const Number* in, int64_t in_pixel, Number* out, int64_t out_pixel,
                         const Filter& filter, bool activate, int threads) {
  const Depthwise<Number, Number> job{map, in, in_pixel, map.pixels() * in_pixel, out, out_pixel,
                                    map.pixels() * out_pixel, filter.kernel, map.channels, 0, filter.bias, 0,
                                    activate};
  depthwise(job, static_cast<int>(filter.size), threads);
}
