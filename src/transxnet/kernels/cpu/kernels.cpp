// Functions called from Python. Maps are (image, row, column, channel); their storage type may differ from the type of
// computation.

#include <iterator>
#include <type_traits>

#include "block.h"
#include "feed_forward.h"
#ifndef FLOAT16
#include "attention_gradients.h"
#include "batch_norm.h"
#include "gelu.h"
#include "gradients.h"
#include "layer_scale.h"
#endif
#include "mixer.h"
#include "patches.h"

namespace {

// in to out, both (images, rows, columns, channels), which may be the same.
template <class T>
void run(const Block& block, const Map& map, const T* in, T* out, const Bias& bias, char* memory, int threads) {
  const Bands bands(block, map, threads);
  Space space(memory);
  const Rooms rooms = rooms_of(block, map, bias, bands.count > 0, space);
  const int64_t pixels = map.images * map.pixels(), channels = map.channels, step = map.pixels() * channels;
  T* x = reinterpret_cast<T*>(rooms.x);
  const Depthwise<T, T> position{map, in, channels, step, x, channels, step, block.position.kernel, channels, 0,
                                 block.position.bias, 0, false};
  depthwise(position, static_cast<int>(block.position.size), threads);
  statistics(map, x, block.norm1.epsilon, rooms.means, rooms.factors, threads);
  const Normalised<T> normalised{map, x, rooms.means, rooms.factors, block.norm1.weight, block.norm1.bias};
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < pixels; row += 64)
    normalised(row, std::min(pixels, row + 64), rooms.normed + row * channels, channels);
  dynamic_convolution(block, map, rooms, threads);
  reduced_attention(block, map, bias, rooms, threads);
  depthwise_of(map, rooms.mixed, channels, rooms.normed, channels, block.neighbours, true, threads);
  product_to(pixels, block.squeeze, Rows{rooms.normed, channels, channels}, rooms.squeezed, true, threads);
  const int64_t squeezed = block.squeeze.columns;
  product(pixels, squeezed, channels, block.restore.weight, Rows{rooms.squeezed, squeezed, squeezed},
          [&](Vec value, int64_t row, int64_t column, int count) {
            const int64_t index = row * channels + column;
            value += load_some(block.restore.bias + column, count);
            value += load_some(rooms.mixed + index, count) * load_some(block.identity + column, count);
            store_floats_some(x + index, to_floats(value) + load_floats_some(x + index, count), count);
          },
          threads);
  feed_forward(block, map, x, out, rooms, bands, threads);
}

template <class T>
void run_all(const Block* const* blocks, int count, const int64_t* shape, const T* in, T* out, const Bias& bias,
             char* memory, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  for (int i = 0; i < count; ++i) run<T>(*blocks[i], map, i ? out : in, out, bias, memory, threads);
}

// Whether all 16-bit numbers are finite.
template <class T>
int finite(const T* numbers, int64_t count, int threads) {
  const uint16_t exponent = std::is_same_v<T, bfloat16> ? 0x7f80 : 0x7c00;
  const auto bits = reinterpret_cast<const uint16_t*>(numbers);
  int infinite = 0;
#pragma omp parallel for reduction(| : infinite) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) infinite |= (bits[i] & exponent) == exponent;
  return !infinite;
}

}  // namespace

extern "C" {

// Sizes of the structures, which build.py compares with Python's.
#define SIZE(Structure) \
  int64_t size_of_##Structure() { return sizeof(Structure); }
SIZE(Matrix)
SIZE(Filter)
SIZE(Norm)
SIZE(Reduction)
SIZE(Scales)
SIZE(Block)
SIZE(Convolution)
SIZE(Attention)
SIZE(Bias)
#ifndef FLOAT16
SIZE(AttentionGradients)
SIZE(BatchNorm)
SIZE(ScaleGradients)
#endif

// Size of a block's scratch memory in bytes.
int64_t block_room(const Block* block, const int64_t* shape, int64_t stored, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  Space space(nullptr);
  rooms_of(*block, map, Bias{nullptr, nullptr, nullptr, stored}, Bands(*block, map, threads).count > 0, space);
  return space.used();
}

// Consecutive blocks of one shape.
#define BLOCKS(T)                                                                                             \
  void blocks_##T(const Block* const* blocks, int count, const int64_t* shape, const T* in, T* out,           \
                  const Bias* bias, char* memory, int threads) {                                              \
    run_all<T>(blocks, count, shape, in, out, *bias, memory, threads);                                        \
  }
BLOCKS(bfloat16)
#ifdef __FLT16_MAX__
BLOCKS(float16)
#endif

#ifdef FLOAT16
#define PATCHES(T)                                                                                            \
  void convolution_##T(const Convolution* job, const int64_t* shape, const T* in, T* out, int threads) {      \
    convolve<T>(*job, Map{shape[0], shape[1], shape[2], shape[3]}, in, out, threads);                         \
  }                                                                                                           \
  int finite_##T(const T* numbers, int64_t count, int threads) { return finite(numbers, count, threads); }
PATCHES(bfloat16)
PATCHES(float16)
#else
typedef float float32;
BLOCKS(float32)

// For training: a depthwise convolution (see Depthwise).
void depthwise_float32(const int64_t* shape, const float* in, int64_t in_pixel, int64_t in_image, float* out,
                       int64_t out_pixel, int64_t out_image, const float* kernel, int64_t kernel_image,
                       const float* bias, int64_t bias_image, int size, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  const Depthwise<float, float> job{map, in, in_pixel, in_image, out, out_pixel, out_image, kernel, map.channels,
                                    kernel_image, bias, bias_image, false};
  depthwise(job, size, threads);
}

void kernel_gradient_float32(const int64_t* shape, const float* in, int64_t in_pixel, int64_t in_image,
                             const float* gradient, int64_t gradient_pixel, int64_t gradient_image, float* kernel,
                             float* bias, int size, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  kernel_gradient({map, in, in_pixel, in_image, gradient, gradient_pixel, gradient_image, kernel, bias}, size, threads);
}

// For training: attention and its gradients. `space` has attention_room() floats.
int64_t attention_room(const Attention* job) { return job->room(); }

void attention_float32(const Attention* job, float* space, int threads) { attend(*job, space, threads); }

void attention_gradients_float32(const AttentionGradients* job, int threads) { attention_gradients(*job, threads); }

// For training: batch normalisation with batch statistics (see BatchNorm), with GELU at `order`.
void batch_norm_float32(const BatchNorm* job, int order, double epsilon, double momentum, float* running_means,
                        float* running_variances, float* out, int threads) {
  with_gelu(order, [&](auto gelu) {
    batch_statistics<gelu.value>(*job, epsilon, momentum, running_means, running_variances, threads);
    normalise<gelu.value>(*job, out, threads);
  });
}

void batch_norm_gradients_float32(const BatchNorm* job, int order, const float* gradient, float* in_gradient,
                                  float* weight_gradient, float* bias_gradient, int threads) {
  with_gelu(order, [&](auto gelu) {
    batch_norm_gradients<gelu.value>(*job, gradient, in_gradient, weight_gradient, bias_gradient, threads);
  });
}

// For training: the gradients of a layer scale.
void scale_gradients_float32(const ScaleGradients* job, int threads) { scale_gradients(*job, threads); }

// For training: GELU of `size` numbers, and its gradient.
void gelu_float32(int64_t size, const float* in, float* out, int threads) {
  everywhere(
      size, [=](int64_t i, int count) { store_some(out + i, fine_gelu(load_some(in + i, count)), count); }, threads);
}

void gelu_gradient_float32(int64_t size, const float* in, const float* gradient, float* out, int threads) {
  everywhere(
      size,
      [=](int64_t i, int count) {
        store_some(out + i, load_some(gradient + i, count) * gelu_derivative(load_some(in + i, count)), count);
      },
      threads);
}
#endif

}  // extern "C"
