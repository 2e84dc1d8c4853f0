// What Python calls. Maps are (image, row, column, channel); sums are in float32 whatever a block's maps are stored as.

#include <type_traits>

#include "block.h"

extern "C" {

// The floats of memory that run_* needs.
int64_t block_room(const Block* block, const int64_t* shape, int64_t stored, int threads) {
  const Map map{shape[0], shape[1], shape[2], shape[3]};
  Space space(nullptr);
  rooms_of(*block, map, Bias{nullptr, nullptr, nullptr, stored}, Bands(*block, map, threads).count > 0, space);
  return space.used();
}

void block_float32(const Block* block, const int64_t* shape, const float* in, float* between, float* out,
                   const Bias* bias, float* memory, int threads) {
  run<float>(*block, Map{shape[0], shape[1], shape[2], shape[3]}, in, between, out, *bias, memory, threads);
}

void block_bfloat16(const Block* block, const int64_t* shape, const uint16_t* in, uint16_t* between, uint16_t* out,
                    const Bias* bias, float* memory, int threads) {
  run<uint16_t>(*block, Map{shape[0], shape[1], shape[2], shape[3]}, in, between, out, *bias, memory, threads);
}

}  // extern "C"
