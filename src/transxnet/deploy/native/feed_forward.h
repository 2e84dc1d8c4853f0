// MS-FFN.

#pragma once

#include "block.h"

// Adds MS-FFN of x to x, an image's band of rows by one thread. Expanded rows are in a ring: each is needed for
// a few rows of the result, then overwritten.
template <class T>
void feed_forward_band(const Block& block, const Map& map, const Normalised<T>& normalised, const T* x, T* out,
                       const Bands& bands, int64_t image, int64_t top, int64_t bottom) {
  thread_local Scratch scratch;
  const int64_t width = block.expand.columns, columns = map.columns, ring = bands.ring();
  Number* expanded = scratch.numbers((ring + bands.rows) * columns * width + bands.rows * columns * map.channels);
  Number *scaled = expanded + ring * columns * width,
        *normed = scaled + bands.rows * columns * width;
  int64_t ready = std::max<int64_t>(0, top - bands.halo);
  for (int64_t first = top; first < bottom; first += bands.rows) {
    const int64_t last = std::min(bottom, first + bands.rows), needed = std::min(map.rows, last + bands.halo);
    while (ready < needed) {
      // As many as lie side by side in the ring.
      const int64_t end = std::min({needed, ready + bands.rows, ready + ring - ready % ring});
      const int64_t start = image * map.pixels() + ready * columns, count = (end - ready) * columns;
      normalised(start, start + count, normed, map.channels);
      Number* to = expanded + ready % ring * columns * width;
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
      const Depthwise<Number, Number> job{{1, map.rows, columns, channels}, expanded + begin, width, 0, scaled + begin,
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
                   value += load_some(block.project.bias + column, some);
                   store_floats_some(out + place, to_floats(value) + load_floats_some(x + place, some), some);
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
    const Depthwise<Number, Number> job{part, rooms.expanded + begin, width, step, rooms.scaled + begin, width, step, 0,
                                      block.scale[i].kernel, part.channels, 0, block.scale[i].bias, 0,
                                      block.before_scale + begin, block.before_shift + begin, true, map.rows};
    depthwise(job, static_cast<int>(block.scale[i].size), threads);
    begin += part.channels;
  }
  product(pixels, width, map.channels, block.project.weight, Rows{rooms.scaled, width},
          [&](Vec value, int64_t row, int64_t column, int count) {
            const int64_t place = row * map.channels + column;
            value += load_some(block.project.bias + column, count);
            store_floats_some(out + place, to_floats(value) + load_floats_some(x + place, count), count);
          },
          threads);
}
