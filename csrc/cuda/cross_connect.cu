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

}  // namespace

void cross_connect(const CrossConnect& p, int64_t cluster, void* stream) {
  const auto kernel = visit_variant(p.geometry.dtype, p.gate.inputs, [](auto zero, auto m) {
    return &cross_connect_kernel<decltype(zero), decltype(m)::value>;
  });
  launch_samples(kernel, arguments_of(p, cluster, 0), p.geometry.batch, stream);
}

}  // namespace mpk::cuda
