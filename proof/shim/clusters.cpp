// What csrc/cuda/configuration.h asks of CUDA, on the runtime of runtime/cuda_runtime.h, with a C
// interface. Kernels are numbers.
#include "cuda/configuration.h"

using mpk::cuda::Blocks;

namespace {

const void* kernel_of(int64_t number) { return reinterpret_cast<const void*>(number); }
Blocks blocks_of(int64_t cluster, int64_t bytes) {
  return {.cluster = int32_t(cluster), .threads = 256, .bytes = bytes};
}

}  // namespace

extern "C" {

void make_current(int64_t device, int64_t most_bytes, int64_t clusters) {
  runtime::current = int(device);
  runtime::devices[int(device)] = {.most_bytes = most_bytes, .clusters = int(clusters)};
}

int64_t active_clusters(int64_t kernel, int64_t cluster, int64_t bytes) {
  return mpk::cuda::active_clusters(kernel_of(kernel), blocks_of(cluster, bytes));
}

// 0, or CUDA's number of the error.
int64_t allow(int64_t kernel, int64_t cluster, int64_t bytes) {
  return mpk::cuda::allow(kernel_of(kernel), blocks_of(cluster, bytes));
}

int64_t allowed_bytes(int64_t kernel) {
  return runtime::allowed[{kernel_of(kernel), runtime::current}].bytes;
}
int64_t attributes_set() { return runtime::attributes_set; }
int64_t last_error() { return runtime::last; }
}
