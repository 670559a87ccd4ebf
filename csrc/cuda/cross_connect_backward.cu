// The backward's kernels.
#include "cuda/cross_connect_backward.cuh"
#include "cuda/gate_parameter_grads.cuh"
#include "cuda/launch.h"
#include "cuda/variants.cuh"

namespace mpk::cuda {
namespace {

template <class T, int N>
__global__ void __launch_bounds__(max_threads, 1)
    cross_connect_backward_kernel(const __grid_constant__ CrossConnectBackwardArguments p) {
  cross_connect_backward_part<T, N>(p);
}

__global__ void __launch_bounds__(weight_threads)
    gate_weights_kernel(const __grid_constant__ GateWeightArguments p) {
  gate_weights_block(p);
}

Kernel<CrossConnectBackwardArguments> kernel_of(Dtype dtype, int64_t kept) {
  return visit_variant(dtype, kept, [](auto zero, auto n) {
    return &cross_connect_backward_kernel<decltype(zero), decltype(n)::value>;
  });
}

}  // namespace

void cross_connect_backward(const CrossConnectBackward& p, int64_t cluster, void* stream) {
  const int64_t kept = p.present > 0 ? p.present : 1;
  launch_samples(kernel_of(p.geometry.dtype, kept), arguments_of(p, cluster, 0), p.geometry.batch,
                 stream);
}

int64_t active_clusters_backward(Dtype dtype, int64_t kept, const Blocks& of) {
  return active_clusters(reinterpret_cast<const void*>(kernel_of(dtype, kept)), of);
}

void gate_weight_gradients(const GateWeightGradients& p, void* stream) {
  const GateWeightArguments arguments = arguments_of(p);
  const Blocks of{
      .cluster = 1, .threads = weight_threads, .bytes = weight_shared_bytes(weight_threads)};
  launch(&gate_weights_kernel, arguments, blocks_of(arguments), of, stream);
}

}  // namespace mpk::cuda
