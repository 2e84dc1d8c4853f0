// MS-FFN.
//
// Hidden maps store kLanes channels of all pixels, then the next ones: products write that layout, and depthwise
// convolutions read and write whole lines. Lines are separated by as many zeros as the largest kernel needs.

#pragma once

#include "block.h"

struct Hidden {
  Number* at;
  int64_t line, lines;  // numbers of a line; lines of kLanes channels

  int64_t block() const { return line * lines; }
};

// A row of kLanes channels, with zeros for rows that the map does not have.
template <int kSize>
inline void scale_row(const Scales& scales, int64_t block, const Hidden& hidden, const Map& map, int64_t row,
                      const Number* zeros, Number* out) {
  const Number* lines[kSize];
  for (int i = 0; i < kSize; ++i) {
    const int64_t from = row - kSize / 2 + i;
    const bool inside = from >= 0 && from < map.rows;
    lines[i] = inside ? hidden.at + block * hidden.block() + from % hidden.lines * hidden.line : zeros;
    lines[i] += (scales.halo - kSize / 2) * kLanes;
  }
  depthwise_row<kSize>(lines, map.columns, scales.kernels + scales.starts[block], load(scales.bias + block * kLanes), out,
                       kLanes, true, kLanes);
}

inline void scale_rows(const Scales& scales, int64_t block, const Hidden& hidden, const Map& map, int64_t first,
                       int64_t last, const Number* zeros, Number* out) {
  for (int64_t row = first; row < last; ++row, out += map.columns * kLanes) switch (scales.sizes[block]) {
      case 1: scale_row<1>(scales, block, hidden, map, row, zeros, out); break;
      case 3: scale_row<3>(scales, block, hidden, map, row, zeros, out); break;
      case 5: scale_row<5>(scales, block, hidden, map, row, zeros, out); break;
      case 7: scale_row<7>(scales, block, hidden, map, row, zeros, out); break;
    }
}

// After the first product: GELU, and the affine map, which does not apply to the padding. `offsets`: offsets of the
// rows' numbers in a block of kLanes channels.
inline auto expansion(const Block& block, Number* to, int64_t block_step, const int64_t* offsets) {
  const Number *bias = block.expand.bias, *scale = block.scales.before_scale, *shift = block.scales.before_shift;
  return [=](Vec value, int64_t row, int64_t column, int count) {
    value = gelu(value + load_some(bias + column, count));
    store(to + column / kLanes * block_step + offsets[row], value * load(scale + column) + load(shift + column));
  };
}

// After the second product: the bias and the residual sum.
template <class T>
inline auto projection(const Block& block, const T* x, T* out, int64_t channels) {
  const Number* bias = block.project.bias;
  return [=](Vec value, int64_t row, int64_t column, int count) {
    const int64_t index = row * channels + column;
    value += load_some(bias + column, count);
    store_floats_some(out + index, to_floats(value) + load_floats_some(x + index, count), count);
  };
}

// A band of an image's rows, by one thread. Hidden rows are in a ring buffer: each is needed for a few rows of the
// result, then overwritten.
template <class T>
void feed_forward_band(const Block& block, const Map& map, const Normalised<T>& normalised, const T* x, T* out,
                       const Bands& bands, int64_t image, int64_t top, int64_t bottom) {
  const Scales& scales = block.scales;
  const int64_t columns = map.columns, ring = bands.ring, most = bands.rows * columns;
  const int64_t line = hidden_line(scales, columns), end = scales.halo * kLanes, wide = scales.blocks * ring * line + end;
  thread_local Scratch scratch;
  Number* memory = scratch.numbers(wide + line + end + most * (scales.blocks * kLanes + filled(map.channels)));
  const Hidden hidden{memory, line, ring};
  Number *zeros = memory + wide, *scaled = zeros + line + end, *normed = scaled + most * scales.blocks * kLanes;
  for (int64_t i = 0; i <= scales.blocks * ring; ++i) std::fill_n(memory + i * line, end, Number(0));
  std::fill_n(zeros, line + end, Number(0));
  thread_local std::vector<int64_t> offsets;
  offsets.resize(most);
  for (int64_t i = 0; i < most; ++i) offsets[i] = i / columns * line + (scales.halo + i % columns) * kLanes;
  int64_t ready = std::max<int64_t>(0, top - scales.halo);
  for (int64_t first = top; first < bottom; first += bands.rows) {
    const int64_t last = std::min(bottom, first + bands.rows), needed = std::min(map.rows, last + scales.halo);
    while (ready < needed) {
      // As many as are contiguous in the ring.
      const int64_t stop = std::min({needed, ready + bands.rows, ready + ring - ready % ring});
      const int64_t start = image * map.pixels() + ready * columns, count = (stop - ready) * columns;
      normalised(start, start + count, normed, kLanes, count * kLanes);
      Number* to = hidden.at + ready % ring * line;
      product_rows(Input{normed, count * kLanes}, map.channels, block.expand.weight, block.expand.columns, 0, count, 0,
                   panels_of(block.expand.columns), expansion(block, to, hidden.block(), offsets.data()));
      ready = stop;
    }
    const int64_t count = (last - first) * columns;
    for (int64_t i = 0; i < scales.blocks; ++i)
      scale_rows(scales, i, hidden, map, first, last, zeros, scaled + i * count * kLanes);
    const int64_t start = (image * map.pixels() + first * columns) * map.channels;
    product_rows(Input{scaled, count * kLanes}, block.project.inner, block.project.weight, map.channels, 0, count,
                 0, panels_of(map.channels), projection(block, x + start, out + start, map.channels));
  }
}

// The whole maps of all images.
template <class T>
void feed_forward_whole(const Block& block, const Map& map, const Normalised<T>& normalised, const T* x, T* out,
                        const Rooms& rooms, int threads) {
  const Scales& scales = block.scales;
  const int64_t line = hidden_line(scales, map.columns), pixels = map.images * map.pixels();
  const int64_t each = scales.blocks * map.rows * line;  // numbers of an image
  std::vector<int64_t> offsets(pixels);
  for (int64_t i = 0; i < pixels; ++i)
    offsets[i] = i / map.pixels() * each + i % map.pixels() / map.columns * line +
                (scales.halo + i % map.columns) * kLanes;
  product(pixels, block.expand.inner, block.expand.columns, block.expand.weight, normalised,
          expansion(block, rooms.expanded, map.rows * line, offsets.data()), threads);
  const int64_t end = scales.halo * kLanes;
  const std::vector<Number> zeros(line + end);
  std::fill_n(rooms.expanded + map.images * each, end, Number(0));
#pragma omp parallel for num_threads(threads)
  for (int64_t index = 0; index < map.images * scales.blocks * map.rows; ++index)
    std::fill_n(rooms.expanded + index * line, end, Number(0));
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < map.images; ++image)
    for (int64_t i = 0; i < scales.blocks; ++i) {
      const Hidden hidden{rooms.expanded + image * each, line, map.rows};
      Number* to = rooms.scaled + (i * pixels + image * map.pixels()) * kLanes;
      scale_rows(scales, i, hidden, map, 0, map.rows, zeros.data(), to);
    }
  product(pixels, block.project.inner, map.channels, block.project.weight, 
          [&](int64_t first, int64_t, Scratch&) { return Input{rooms.scaled + first * kLanes, pixels * kLanes}; },
          projection(block, x, out, map.channels), threads);
}

// Adds MS-FFN of x to x. The result does not overwrite x: a band needs the original rows of its neighbours.
template <class T>
void feed_forward(const Block& block, const Map& map, const T* x, T* out, const Rooms& rooms, const Bands& bands,
                  int threads) {
  statistics(map, x, block.norm2.epsilon, rooms.means, rooms.factors, threads);
  const Normalised<T> normalised{map, x, rooms.means, rooms.factors, block.norm2.weight, block.norm2.bias};
  if (!bands.count) return feed_forward_whole(block, map, normalised, x, out, rooms, threads);
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(threads)
  for (int64_t image = 0; image < map.images; ++image)
    for (int64_t band = 0; band < bands.count; ++band)
      feed_forward_band(block, map, normalised, x, out, bands, image, map.rows * band / bands.count,
                        map.rows * (band + 1) / bands.count);
}
