// Replays calls of the kernels that helpers/recorded_calls.py recorded, possibly on another machine: reads them from
// standard input, and writes the returned numbers and the changed memory to standard output.

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "kernels.cpp"

namespace {

using Call = std::function<int64_t(const std::vector<int64_t>&)>;

void fail(const std::string& reason) {
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::exit(1);
}

void read(void* to, size_t size) {
  if (std::fread(to, 1, size, stdin) != size) fail("the recording ends early");
}

int64_t number() {
  int64_t value;
  read(&value, sizeof(value));
  return value;
}

template <class T>
T converted(int64_t bits) {
  if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(bits);
  if constexpr (std::is_integral_v<T>) return static_cast<T>(bits);
  if constexpr (std::is_floating_point_v<T>) {
    T value;
    static_assert(sizeof(value) == sizeof(bits));
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
}

template <class Result, class... Types, size_t... kIndices>
int64_t call(Result (*function)(Types...), const std::vector<int64_t>& given, std::index_sequence<kIndices...>) {
  if (given.size() != sizeof...(Types)) fail("the recording has another number of arguments");
  if constexpr (std::is_void_v<Result>)
    return function(converted<Types>(given[kIndices])...), 0;
  else
    return function(converted<Types>(given[kIndices])...);
}

template <class Result, class... Types>
Call callable(Result (*function)(Types...)) {
  return [=](const std::vector<int64_t>& given) { return call(function, given, std::index_sequence_for<Types...>()); };
}

#define ENTRY(function) {#function, callable(function)}
const std::map<std::string, Call> kEntries{
    ENTRY(size_of_Matrix), ENTRY(size_of_Filter), ENTRY(size_of_Norm), ENTRY(size_of_Reduction), ENTRY(size_of_Scales),
    ENTRY(size_of_Block), ENTRY(size_of_Convolution), ENTRY(size_of_Attention), ENTRY(size_of_Bias),
    ENTRY(size_of_AttentionGradients), ENTRY(size_of_BatchNorm), ENTRY(size_of_ScaleGradients), ENTRY(block_room),
    ENTRY(blocks_float32), ENTRY(blocks_bfloat16), ENTRY(blocks_float16), ENTRY(depthwise_float32),
    ENTRY(kernel_gradient_float32), ENTRY(attention_room), ENTRY(attention_float32), ENTRY(attention_gradients_float32),
    ENTRY(batch_norm_float32), ENTRY(batch_norm_gradients_float32), ENTRY(scale_gradients_float32), ENTRY(gelu_float32),
    ENTRY(gelu_gradient_float32)};

struct Deleter {
  void operator()(char* memory) const { operator delete[](memory, std::align_val_t(64)); }
};

struct Region {
  std::unique_ptr<char, Deleter> memory;
  int64_t size;
};

Region region() {
  const int64_t size = number();
  Region made{std::unique_ptr<char, Deleter>(new (std::align_val_t(64)) char[size + 1]), size};
  read(made.memory.get(), size);
  return made;
}

void replay() {
  std::string name(number(), ' ');
  read(name.data(), name.size());
  const auto entry = kEntries.find(name);
  if (entry == kEntries.end()) fail("there is no function " + name);
  std::vector<Region> regions(number());
  for (Region& each : regions) each = region();
  const auto address = [&](int64_t index, int64_t offset) {
    return index < 0 ? offset : reinterpret_cast<int64_t>(regions.at(index).memory.get()) + offset;
  };
  for (int64_t left = number(); left > 0; --left) {  // pointers in structures
    const int64_t from = number(), at = number(), to = number(), offset = number(), pointer = address(to, offset);
    std::memcpy(regions.at(from).memory.get() + at, &pointer, sizeof(pointer));
  }
  std::vector<int64_t> given(number());
  for (int64_t& each : given) {
    const int64_t index = number();
    each = address(index, number());
  }
  const int64_t result = entry->second(given);
  std::fwrite(&result, sizeof(result), 1, stdout);
  for (int64_t left = number(); left > 0; --left) {
    const Region& written = regions.at(number());
    std::fwrite(written.memory.get(), 1, written.size, stdout);
  }
}

}  // namespace

int main() {
  for (int64_t left = number(); left > 0; --left) replay();
}
