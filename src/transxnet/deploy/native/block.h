// What a block is made of, with all that is fixed folded, and where it keeps what it is done with at its end.

#pragma once

#include "attention.h"
#include "depthwise.h"
#include "norms.h"
#include "products.h"

struct Matrix {  // as products.h stores it, and a bias
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

constexpr int kScales = 8;  // most that MS-FFN may have

// What a block is made of. layouts.py has the same fields.
struct Block {
  int64_t channels, local, heads, groups, kernel_size, scales;  // local: IDConv's channels, the first ones
  Filter position;
  Norm norm1;
  Matrix attention_squeeze, attention_scores;
  const Number* bank;  // (groups, kernel_size ** 2 + 1, local), the last place is the bias
  Matrix q, kv;
  Reduction reduction;  // its size is 0 where keys are not reduced
  Filter refinement, neighbours;
  Matrix squeeze, restore;
  const Number* identity;
  Norm norm2;
  Matrix expand, project;
  const Number *before_scale, *before_shift;  // the affine map before the scales, of all hidden channels
  Filter scale[kScales];
  int64_t scale_channels[kScales];
};

struct Bias {
  const Number *map, *rows, *columns;
  int64_t stored;
};

// Where a block keeps what it is done with at its end.
class Space {
 public:
  explicit Space(char* memory) : memory_(memory) {}
  template <class T>
  void take(T*& place, int64_t count) {
    place = memory_ ? reinterpret_cast<T*>(memory_ + used_) : nullptr;
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

// Whether MS-FFN is computed in bands of rows: its wide maps then never leave the cache.
struct Bands {
  int64_t count, rows;  // bands of an image, and rows that are computed at a time; 0 bands: the maps are made whole

  Bands(const Block& block, const Map& map, int threads) {
    int64_t pad = 0;
    for (int64_t i = 0; i < block.scales; ++i) pad = std::max(pad, block.scale[i].size / 2);
    halo = pad;
    const int64_t row = map.columns * block.expand.columns;  // numbers
    rows = std::max<int64_t>(1, (56 + map.columns - 1) / map.columns);
    const int64_t fitting = kCache / std::max<int64_t>(1, row);  // rows of both maps
    if (fitting > 2 * pad + 2 * rows) rows = std::min((fitting - 2 * pad) / 2, map.rows);
    count = std::max<int64_t>(1, (2 * threads + map.images - 1) / map.images);
    if (map.images % threads == 0 || map.images >= 4 * threads) count = 1;
    else if (map.rows < 12 * pad * count) count = std::max<int64_t>(1, (threads + map.images - 1) / map.images);
    const int64_t height = (map.rows + count - 1) / count;
    rows = std::min(rows, height);
    // Twice the same rows at the bands' borders; and matrices that no cache holds are read for every few rows.
    if (count > 1 && height < 6 * pad) count = 0;
    if (2 * rows + 2 * pad > fitting && rows * map.columns < 56) count = 0;
  }
  int64_t ring() const { return rows + 2 * halo; }

  static constexpr int64_t kCache = kPair * 320 * 1024;  // numbers: of a processor's own cache
  int64_t halo;
};

inline Rooms rooms_of(const Block& block, const Map& map, const Bias& bias, bool bands, Space& space) {
  const int64_t images = map.images, pixels = images * map.pixels(), local = block.local;
  const int64_t distant = block.channels - local, places = block.kernel_size * block.kernel_size + 1;
  const int64_t stride = block.reduction.size ? block.reduction.stride : 1;
  const int64_t keys = images * reduced(map.rows, stride) * reduced(map.columns, stride);
  Rooms rooms{};
  space.take(rooms.x, pixels * block.channels);  // as the maps between blocks are: perhaps half of it
  space.take(rooms.means, images);
  space.take(rooms.factors, images);
  space.take(rooms.normed, pixels * block.channels);
  space.take(rooms.mixed, pixels * block.channels);
  space.take(rooms.pooled, images * places * local);
  space.take(rooms.hidden, images * places * block.attention_squeeze.columns);
  space.take(rooms.scores, images * places * scores_of(block));
  space.take(rooms.kernels, images * places * local);
  space.take(rooms.q, pixels * distant);
  space.take(rooms.reduced, keys * distant);
  space.take(rooms.refined, keys * distant);
  space.take(rooms.kv, keys * 2 * distant);
  space.take(rooms.packed, attention_of(block, map, bias, rooms).room());
  space.take(rooms.squeezed, pixels * block.squeeze.columns);
  if (!bands) {
    space.take(rooms.expanded, pixels * block.expand.columns);
    space.take(rooms.scaled, pixels * block.expand.columns);
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
                                    map.pixels() * out_pixel, 0, filter.kernel, map.channels, 0, filter.bias, 0,
                                    nullptr, nullptr, activate, map.rows};
  depthwise(job, static_cast<int>(filter.size), threads);
}
