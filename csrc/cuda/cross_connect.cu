// The forward's kernels.
#include "cuda/cross_connect.cuh"
#include "cuda/launch.h"
#include "cuda/variants.cuh"

namespace mpk::cuda {
namespace {

template <class T, int M>
__global__ void __launch_bounds__(max_threads, 1)
    cross_connect_kernel(const __grid_constant__ CrossConnectArguments p) {
  cross_connect_part<T, M>(p);
}

Kernel<CrossConnectArguments> kernel_of(Dtype dtype, int64_t kept) {
  return visit_variant(dtype, kept, [](auto zero, auto m) {
    return &cross_connect_kernel<decltype(zero), decltype(m)::value>;
  });
}

}  // namespace

void cross_connect(const CrossConnect& p, int64_t cluster, void* stream) {
  launch_samples(kernel_of(p.geometry.dtype, p.gate.inputs), arguments_of(p, cluster, 0),
                 p.geometry.batch, stream);
}

int64_t active_clusters(Dtype dtype, int64_t kept, const Blocks& of) {
  return active_clusters(reinterpret_cast<const void*>(kernel_of(dtype, kept)), of);
}

}  // namespace mpk::cuda
