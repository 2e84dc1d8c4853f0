// D-Mixer's two halves.

#pragma once

#include "block.h"

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
