// A block of the network: DPE, D-Mixer (IDConv, OSRA, STE) and MS-FFN, with all that is fixed folded.

#pragma once

#include "attention.h"
#include "depthwise.h"
#include "norms.h"
#include "products.h"

struct Matrix {  // as products.h stores it, and a bias
  const float *weight, *bias;
  int64_t inner, columns;
};

struct Filter {  // a depthwise convolution: (size * size, channels) and (channels)
  const float *kernel, *bias;
  int64_t size;
};

struct Norm {
  const float *weight, *bias;
  float epsilon;
};

constexpr int kScales = 8;  // most that MS-FFN may have

// What a block is made of. native/block.py has the same fields.
struct Block {
  int64_t channels, local, heads, groups, kernel_size, scales;  // local: IDConv's channels, the first ones
  Filter position;
  Norm norm1;
  Matrix attention_squeeze, attention_scores;
  const float* bank;  // (groups, kernel_size ** 2 + 1, local), float32; the last place is the bias
  Matrix q, kv;
  Reduction reduction;  // its size is 0 where keys are not reduced
  Filter refinement, neighbours;
  Matrix squeeze, restore;
  const float* identity;
  Norm norm2;
  Matrix expand, project;
  const float *before_scale, *before_shift;  // the affine map before the scales, of all hidden channels
  Filter scale[kScales];
  int64_t scale_channels[kScales];
};

struct Bias {
  const float *map, *rows, *columns;
  int64_t stored;
};

// Where a block keeps what it is done with at its end.
class Space {
 public:
  explicit Space(float* memory) : memory_(memory) {}
  float* take(int64_t floats) {
    float* here = memory_ ? memory_ + used_ : nullptr;
    used_ += (floats + kLanes - 1) / kLanes * kLanes;
    return here;
  }
  int64_t used() const { return used_; }

 private:
  float* memory_;
  int64_t used_ = 0;
};

struct Rooms {
  float *x, *means, *factors, *normed, *mixed, *pooled, *hidden, *scores, *kernels, *q, *reduced, *refined, *kv, *packed,
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
    const int64_t row = map.columns * block.expand.columns;  // floats
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

  static constexpr int64_t kCache = 320 * 1024;  // floats: of a processor's own cache
  int64_t halo;
};

inline Rooms rooms_of(const Block& block, const Map& map, const Bias& bias, bool bands, Space& space) {
  const int64_t images = map.images, pixels = images * map.pixels(), local = block.local;
  const int64_t distant = block.channels - local, places = block.kernel_size * block.kernel_size + 1;
  const int64_t stride = block.reduction.size ? block.reduction.stride : 1;
  const int64_t keys = images * reduced(map.rows, stride) * reduced(map.columns, stride);
  Rooms rooms{};
  rooms.x = space.take(pixels * block.channels);  // bfloat16 takes half of it
  rooms.means = space.take(images);
  rooms.factors = space.take(images);
  rooms.normed = space.take(pixels * block.channels);
  rooms.mixed = space.take(pixels * block.channels);
  rooms.pooled = space.take(images * places * local);
  rooms.hidden = space.take(images * places * block.attention_squeeze.columns);
  rooms.scores = space.take(images * places * scores_of(block));
  rooms.kernels = space.take(images * places * local);
  rooms.q = space.take(pixels * distant);
  rooms.reduced = space.take(keys * distant);
  rooms.refined = space.take(keys * distant);
  rooms.kv = space.take(keys * 2 * distant);
  rooms.packed = space.take(attention_of(block, map, bias, rooms).room());
  rooms.squeezed = space.take(pixels * block.squeeze.columns);
  if (!bands) {
    rooms.expanded = space.take(pixels * block.expand.columns);
    rooms.scaled = space.take(pixels * block.expand.columns);
  }
  return rooms;
}

// gelu(matrix of the rows), or without.
template <class Rows>
void product_to(int64_t rows, const Matrix& matrix, const Rows& from, float* out, bool activate, int threads) {
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

inline void depthwise_of(const Map& map, const float* in, int64_t in_pixel, float* out, int64_t out_pixel,
                         const Filter& filter, bool activate, int threads) {
  const Depthwise<float, float> job{map, in, in_pixel, map.pixels() * in_pixel, out, out_pixel,
                                    map.pixels() * out_pixel, 0, filter.kernel, map.channels, 0, filter.bias, 0,
                                    nullptr, nullptr, activate, map.rows};
  depthwise(job, static_cast<int>(filter.size), threads);
}

// Equation 2: a kernel for each image from its means.
inline void dynamic_convolution(const Block& block, Map map, const Rooms& rooms, int threads) {
  const int64_t places = block.kernel_size * block.kernel_size + 1, channels = block.local;
  const int64_t step = block.channels;
  map.channels = channels;
  pool(map, rooms.normed, step, map.pixels() * step, rooms.pooled, static_cast<int>(block.kernel_size), threads);
  const int64_t rows = map.images * places, wide = scores_of(block);
  product_to(rows, block.attention_squeeze, Rows<float>{rooms.pooled, channels, channels}, rooms.hidden, true, threads);
  const int64_t squeezed = block.attention_squeeze.columns;
  product_to(rows, block.attention_scores, Rows<float>{rooms.hidden, squeezed, squeezed}, rooms.scores, false, threads);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      const int count = lanes(channels - channel);
      const float* score = rooms.scores + row * wide + channel;
      const float* bank = block.bank + row % places * channels + channel;
      const int64_t group_step = places * channels;
      Vec mixed{};
      if (block.groups == 2) {  // the softmax of two is the sigmoid of their difference
        const Vec other = load_some(bank + group_step, count);
        mixed = other + sigmoid(load_some(score, count)) * (load_some(bank, count) - other);
      } else {
        Vec most = load_some(score, count), sum{};
        for (int64_t group = 1; group < block.groups; ++group)
          most = larger(most, load_some(score + group * channels, count));
        for (int64_t group = 0; group < block.groups; ++group) {
          const Vec power = exponential(load_some(score + group * channels, count) - most);
          sum += power;
          mixed += power * load_some(bank + group * group_step, count);
        }
        mixed /= sum;
      }
      store_some(rooms.kernels + row * channels + channel, mixed, count);
    }
  const float* biases = rooms.kernels + (places - 1) * channels;
  const Depthwise<float, float> job{map, rooms.normed, step, map.pixels() * step, rooms.mixed, step,
                                    map.pixels() * step, 0, rooms.kernels, channels, places * channels, biases,
                                    places * channels, nullptr, nullptr, false, map.rows};
  depthwise(job, static_cast<int>(block.kernel_size), threads);
}

// Equation 3.
inline void reduced_attention(const Block& block, const Map& map, const Bias& bias, const Rooms& rooms, int threads) {
  const int64_t distant = block.channels - block.local, pixels = map.images * map.pixels();
  const float* in = rooms.normed + block.local;
  product_to(pixels, block.q, Rows<float>{in, block.channels, distant}, rooms.q, false, threads);
  Map few{map.images, map.rows, map.columns, distant};
  const float* keys = in;
  int64_t key_pixel = block.channels;
  if (block.reduction.size) {
    reduce(few, in, block.channels, block.reduction, rooms.reduced, threads);
    few.rows = reduced(map.rows, block.reduction.stride);
    few.columns = reduced(map.columns, block.reduction.stride);
    keys = rooms.reduced;
    key_pixel = distant;
  }
  depthwise_of(few, keys, key_pixel, rooms.refined, distant, block.refinement, false, threads);
  product_to(few.images * few.pixels(), block.kv, Rows<float>{rooms.refined, distant, distant}, rooms.kv, false, threads);
  attend(attention_of(block, map, bias, rooms), rooms.packed, threads);
}

// Adds MS-FFN of x to x, an image's band of rows by one thread. Expanded rows are in a ring: each is needed for
// a few rows of the result, then overwritten.
template <class T>
void feed_forward_band(const Block& block, const Map& map, const Normalised<T>& normalised, const T* x, T* out,
                       const Bands& bands, int64_t image, int64_t top, int64_t bottom) {
  thread_local std::vector<float> buffer;
  const int64_t width = block.expand.columns, columns = map.columns, ring = bands.ring();
  buffer.resize((ring + bands.rows) * columns * width + bands.rows * columns * map.channels);
  float *expanded = buffer.data(), *scaled = expanded + ring * columns * width;
  float* normed = scaled + bands.rows * columns * width;
  int64_t ready = std::max<int64_t>(0, top - bands.halo);
  for (int64_t first = top; first < bottom; first += bands.rows) {
    const int64_t last = std::min(bottom, first + bands.rows), needed = std::min(map.rows, last + bands.halo);
    while (ready < needed) {
      // As many as lie side by side in the ring.
      const int64_t end = std::min({needed, ready + bands.rows, ready + ring - ready % ring});
      const int64_t start = image * map.pixels() + ready * columns, count = (end - ready) * columns;
      normalised(start, start + count, normed, map.channels);
      float* to = expanded + ready % ring * columns * width;
      product_rows(normed, map.channels, map.channels, block.expand.weight, width, 0, count, 0, panels_of(width),
                   [&](Vec value, int64_t row, int64_t column, int some) {
                     value = gelu(value + load_some(block.expand.bias + column, some));
                     store_some(to + row * width + column, value, some);
                   });
      ready = end;
    }
    int64_t begin = 0;
    for (int64_t i = 0; i < block.scales; ++i) {
      const int64_t channels = block.scale_channels[i];
      const Depthwise<float, float> job{{1, map.rows, columns, channels}, expanded + begin, width, 0, scaled + begin,
                                        width, 0, first, block.scale[i].kernel, channels, 0, block.scale[i].bias, 0,
                                        block.before_scale + begin, block.before_shift + begin, true, ring};
      for (int64_t channel = 0; channel < channels; channel += kLanes)
        depthwise_rows(job, static_cast<int>(block.scale[i].size), 0, channel, first, last);
      begin += channels;
    }
    const int64_t start = (image * map.pixels() + first * columns) * map.channels;
    product_rows(scaled, width, width, block.project.weight, map.channels, 0, (last - first) * columns, 0,
                 panels_of(map.channels), [&](Vec value, int64_t row, int64_t column, int some) {
                   const int64_t place = start + row * map.channels + column;
                   value += load_some(block.project.bias + column, some) + load_some(x + place, some);
                   store_some(out + place, value, some);
                 });
  }
}

// Adds MS-FFN of x to x. The result is not written over x: a band needs its neighbours' rows as they were.
template <class T>
void feed_forward(const Block& block, const Map& map, const T* x, T* out, const Rooms& rooms, const Bands& bands,
                  int threads) {
  statistics(map, x, block.norm2.epsilon, rooms.means, rooms.factors, threads);
  const Normalised<T> normalised{map, x, rooms.means, rooms.factors, block.norm2.weight, block.norm2.bias};
  if (bands.count) {
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
    for (int64_t image = 0; image < map.images; ++image)
      for (int64_t band = 0; band < bands.count; ++band)
        feed_forward_band(block, map, normalised, x, out, bands, image, map.rows * band / bands.count,
                          map.rows * (band + 1) / bands.count);
    return;
  }
  const int64_t pixels = map.images * map.pixels(), width = block.expand.columns;
  product_to(pixels, block.expand, normalised, rooms.expanded, true, threads);
  int64_t begin = 0;
  for (int64_t i = 0; i < block.scales; ++i) {
    Map part{map.images, map.rows, map.columns, block.scale_channels[i]};
    const int64_t step = map.pixels() * width;
    const Depthwise<float, float> job{part, rooms.expanded + begin, width, step, rooms.scaled + begin, width, step, 0,
                                      block.scale[i].kernel, part.channels, 0, block.scale[i].bias, 0,
                                      block.before_scale + begin, block.before_shift + begin, true, map.rows};
    depthwise(job, static_cast<int>(block.scale[i].size), threads);
    begin += part.channels;
  }
  product(pixels, width, map.channels, block.project.weight, Rows<float>{rooms.scaled, width, width},
          [&](Vec value, int64_t row, int64_t column, int count) {
            const int64_t place = row * map.channels + column;
            value += load_some(block.project.bias + column, count) + load_some(x + place, count);
            store_some(out + place, value, count);
          },
          threads);
}

// in to out, both (images, rows, columns, channels), which may be the same.
template <class T>
void run(const Block& block, const Map& map, const T* in, T* out, const Bias& bias, float* memory, int threads) {
  const Bands bands(block, map, threads);
  Space space(memory);
  const Rooms rooms = rooms_of(block, map, bias, bands.count > 0, space);
  const int64_t pixels = map.images * map.pixels(), channels = map.channels, step = map.pixels() * channels;
  T* x = reinterpret_cast<T*>(rooms.x);
  const Depthwise<T, T> position{map, in, channels, step, x, channels, step, 0, block.position.kernel, channels, 0,
                                 block.position.bias, 0, nullptr, nullptr, false, map.rows};
  depthwise(position, static_cast<int>(block.position.size), threads);
  statistics(map, x, block.norm1.epsilon, rooms.means, rooms.factors, threads);
  const Normalised<T> normalised{map, x, rooms.means, rooms.factors, block.norm1.weight, block.norm1.bias};
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < pixels; row += 64)
    normalised(row, std::min(pixels, row + 64), rooms.normed + row * channels, channels);
  dynamic_convolution(block, map, rooms, threads);
  reduced_attention(block, map, bias, rooms, threads);
  depthwise_of(map, rooms.mixed, channels, rooms.normed, channels, block.neighbours, true, threads);
  product_to(pixels, block.squeeze, Rows<float>{rooms.normed, channels, channels}, rooms.squeezed, true, threads);
  const int64_t squeezed = block.squeeze.columns;
  product(pixels, squeezed, channels, block.restore.weight, Rows<float>{rooms.squeezed, squeezed, squeezed},
          [&](Vec value, int64_t row, int64_t column, int count) {
            const int64_t place = row * channels + column;
            value += load_some(block.restore.bias + column, count) + load_some(x + place, count);
            value += load_some(rooms.mixed + place, count) * load_some(block.identity + column, count);
            store_some(x + place, value, count);
          },
          threads);
  feed_forward(block, map, x, out, rooms, bands, threads);
}
