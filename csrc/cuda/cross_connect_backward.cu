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

}  // namespace

void cross_connect_backward(const CrossConnectBackward& p, int64_t cluster, void* stream) {
  const int64_t kept = p.present > 0 ? p.present : 1;
  const auto kernel = visit_variant(p.geometry.dtype, kept, [](auto zero, auto n) {
    return &cross_connect_backward_kernel<decltype(zero), decltype(n)::value>;
  });
  launch_samples(kernel, arguments_of(p, cluster, 0), p.geometry.batch, stream);
}

void gate_weight_gradients(const GateWeightGradients& p, void* stream) {
  const GateWeightArguments arguments = arguments_of(p);
  launch(&gate_weights_kernel, arguments, blocks_of(arguments), 1, weight_threads,
         weight_shared_bytes(weight_threads), stream);
}

}  // namespace mpk::cuda
