// What Python calls. Maps are (image, row, column, channel); sums are in float32 whatever a block's maps are stored as.

#include <type_traits>

#include "block.h"

namespace {

template <class T>
void run_all(const Block* const* blocks, int count, const int64_t* shape, const T* in, T* out, const Bias& bias,
             float* memory, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  for (int i = 0; i < count; ++i) run<T>(*blocks[i], map, i ? out : in, out, bias, memory, threads);
}

}  // namespace

extern "C" {

// The floats of memory that a block needs.
int64_t block_room(const Block* block, const int64_t* shape, int64_t stored, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  Space space(nullptr);
  rooms_of(*block, map, Bias{nullptr, nullptr, nullptr, stored}, Bands(*block, map, threads).count > 0, space);
  return space.used();
}

// Blocks one after the other, of one shape.
void blocks_float32(const Block* const* blocks, int count, const int64_t* shape, const float* in, float* out,
                    const Bias* bias, float* memory, int threads) {
  run_all<float>(blocks, count, shape, in, out, *bias, memory, threads);
}

void blocks_bfloat16(const Block* const* blocks, int count, const int64_t* shape, const uint16_t* in, uint16_t* out,
                     const Bias* bias, float* memory, int threads) {
  run_all<uint16_t>(blocks, count, shape, in, out, *bias, memory, threads);
}

}  // extern "C"
