// D-Mixer's two halves.

#pragma once

#include "block.h"

// Equation 2: each image's kernel from its means.
inline void dynamic_convolution(const Block& block, Map map, const Rooms& rooms, int threads) {
  const int64_t positions = block.kernel_size * block.kernel_size + 1, channels = block.local;
  const int64_t step = block.channels;
  map.channels = channels;
  pool(map, rooms.normed, step, map.pixels() * step, rooms.pooled, static_cast<int>(block.kernel_size), threads);
  const int64_t rows = map.images * positions, wide = scores_of(block);
  product_to(rows, block.attention_squeeze, Rows{rooms.pooled, channels, channels}, rooms.hidden, true, threads);
  const int64_t squeezed = block.attention_squeeze.columns;
  product_to(rows, block.attention_scores, Rows{rooms.hidden, squeezed, squeezed}, rooms.scores, false, threads);
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t channel = 0; channel < channels; channel += kLanes) {
      const int count = lanes(channels - channel);
      const Number* score = rooms.scores + row * wide + channel;
      const Number* bank = block.bank + row % positions * channels + channel;
      const int64_t group_step = positions * channels;
      const auto floats_of = [count](const Number* from) { return to_floats(load_some(from, count)); };
      Floats mixed{};
      if (block.groups == 2) {  // the softmax of two is the sigmoid of their difference
        const Floats other = floats_of(bank + group_step);
        mixed = other + sigmoid(floats_of(score)) * (floats_of(bank) - other);
      } else {
        Floats most = floats_of(score), sum{};
        for (int64_t group = 1; group < block.groups; ++group)
          most = larger(most, floats_of(score + group * channels));
        for (int64_t group = 0; group < block.groups; ++group) {
          const Floats power = exponential(floats_of(score + group * channels) - most);
          sum += power;
          mixed += power * floats_of(bank + group * group_step);
        }
        mixed = mixed / sum;
      }
      store_some(rooms.kernels + row * channels + channel, to_vec(mixed), count);
    }
  const Number* biases = rooms.kernels + (positions - 1) * channels;
  const Depthwise<Number, Number> job{map, rooms.normed, step, map.pixels() * step, rooms.mixed, step,
                                    map.pixels() * step, rooms.kernels, channels, positions * channels, biases,
                                    positions * channels, false};
  depthwise(job, static_cast<int>(block.kernel_size), threads);
}

// Equation 3.
inline void reduced_attention(const Block& block, const Map& map, const Bias& bias, const Rooms& rooms, int threads) {
  const int64_t distant = block.channels - block.local, pixels = map.images * map.pixels();
  const Number* in = rooms.normed + block.local;
  product_to(pixels, block.q, Rows{in, block.channels, distant}, rooms.q, false, threads);
  Map few{map.images, map.rows, map.columns, distant};
  const Number* keys = in;
  int64_t key_pixel = block.channels;
  if (block.reduction.size) {
    reduce(few, in, block.channels, block.reduction, rooms.reduced, threads);
    few.rows = reduced(map.rows, block.reduction.stride);
    few.columns = reduced(map.columns, block.reduction.stride);
    keys = rooms.reduced;
    key_pixel = distant;
  }
  depthwise_of(few, keys, key_pixel, rooms.refined, distant, block.refinement, false, threads);
  product_to(few.images * few.pixels(), block.kv, Rows{rooms.refined, distant, distant}, rooms.kv, false, threads);
  attend(attention_of(block, map, bias, rooms), rooms.packed, threads);
}
