// mix for CUDA tensors, as mpkernels::mix_cuda: checks, outputs, one launch.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/macros.h>

#include "cuda/mix.cuh"
#include "cuda/on_device.h"
#include "tensors.h"

namespace mpk::cuda {
namespace {

template <class T, class A>
__global__ void mix_kernel(const __grid_constant__ MixArguments p) {
  const int64_t size = p.batch * p.rows * p.cols;
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < size; at += step)
    mix_element<T, A>(p, at);
}

template <class T, class A>
void launch(const MixArguments& p, cudaStream_t stream) {
  constexpr int threads = 256;
  const int64_t blocks = (p.batch * p.rows * p.cols + threads - 1) / threads;
  if (blocks == 0) return;
  const dim3 grid(unsigned(blocks < (int64_t(1) << 20) ? blocks : int64_t(1) << 20));
  mix_kernel<T, A><<<grid, threads, 0, stream>>>(p);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

std::vector<Tensor> mix(std::vector<Tensor> xs, Tensor gates) {
  check_paths(xs);
  STD_TORCH_CHECK(xs.size() <= max_paths && gates.dim() >= 3 && gates.size(2) <= max_paths,
                  "mix_cuda takes 1 to 8 paths");
  const Geometry geometry = geometry_of(xs[0]);
  const Dtype type = accumulate_type(geometry.dtype);
  const Tensor values = gates.dtype() == type ? std::move(gates) : contiguous_copy(gates, type);
  const bool by_channel = values.dim() == 4;
  STD_TORCH_CHECK((values.dim() == 3 || by_channel) && values.size(0) == geometry.batch &&
                      values.size(1) == int64_t(xs.size()) &&
                      (!by_channel || values.size(3) == geometry.channels),
                  "gates must be [B, m, n] or [B, m, n, C]");
  Maps inputs(int64_t(xs.size())), outputs(values.size(2));
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; j < values.size(2); j++) outputs.write(xs[0], geometry);
  MixArguments p{};
  for (int64_t i = 0; i < inputs.size(); i++) p.xs[i] = inputs.data()[i];
  for (int64_t j = 0; j < outputs.size(); j++) p.ys[j] = outputs.data()[j];
  p.gates = {.data = values.data_ptr(),
             .batch_stride = values.stride(0),
             .input_stride = values.stride(1),
             .output_stride = values.stride(2),
             .channel_stride = by_channel ? values.stride(3) : 0,
             .by_channel = by_channel};
  p.batch = geometry.batch;
  p.rows = geometry.rows();
  p.cols = geometry.cols();
  p.inputs = int(inputs.size());
  p.outputs = int(outputs.size());
  p.channels_last = geometry.channels_last;
  const OnDevice device(xs[0]);
  const auto on = static_cast<cudaStream_t>(device.stream());
  switch (geometry.dtype) {
    case Dtype::f32:
      launch<float, float>(p, on);
      break;
    case Dtype::f64:
      launch<double, double>(p, on);
      break;
    case Dtype::bf16:
      launch<__nv_bfloat16, float>(p, on);
      break;
    case Dtype::f16:
      launch<__half, float>(p, on);
      break;
  }
  return outputs.finish();
}

}  // namespace
}  // namespace mpk::cuda

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CUDA, library) {
  library.impl("mix_cuda", &mpk::boxed<&mpk::cuda::mix>);
}
