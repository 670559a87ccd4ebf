// The compiled kernels, and their launch.
//
// One for each dtype and number of kept maps: 3 x 4 forward, 3 x 4 backward. Layouts, alignments
// and the other number of paths are arguments: they are uniform branches outside the inner loops.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <type_traits>

#include "cuda/plan.h"
#include "cuda/platform.cuh"

namespace mpk::cuda {

template <int count>
using Count = std::integral_constant<int, count>;

template <class T, class Body>
auto visit_kept(int64_t kept, Body body) {
  switch (kept) {
    case 1:
      return body(T{}, Count<1>{});
    case 2:
      return body(T{}, Count<2>{});
    case 3:
      return body(T{}, Count<3>{});
    default:
      return body(T{}, Count<max_kept>{});
  }
}

// body(T, Count<kept>) for the dtype and the number of maps that a block keeps.
template <class Body>
auto visit_variant(Dtype dtype, int64_t kept, Body body) {
  STD_TORCH_CHECK(dtype != Dtype::f64, "the CUDA C++ kernels take float32, bfloat16 and float16");
  STD_TORCH_CHECK(kept >= 1 && kept <= max_kept, "the CUDA C++ kernels keep 1 to 4 maps, not ",
                  kept);
  if (dtype == Dtype::bf16) return visit_kept<bf16>(kept, body);
  if (dtype == Dtype::f16) return visit_kept<f16>(kept, body);
  return visit_kept<float>(kept, body);
}

template <class Arguments>
void launch(void (*kernel)(Arguments), const Arguments& arguments, int64_t blocks, int32_t cluster,
            int32_t threads, int64_t bytes, void* stream) {
  if (blocks == 0) return;
  STD_TORCH_CHECK(blocks < (int64_t(1) << 31), "a batch has too many samples for one launch");
  STD_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  if (cluster > 8)
    STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {.x = unsigned(cluster), .y = 1, .z = 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(blocks));
  config.blockDim = dim3(unsigned(threads));
  config.dynamicSmemBytes = size_t(bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments));
}

template <class Arguments>
void launch_samples(void (*kernel)(Arguments), const Arguments& arguments, int64_t batch,
                    void* stream) {
  const Plan& plan = arguments.plan;
  launch(kernel, arguments, batch * plan.cluster, plan.cluster, plan.threads, shared_bytes(plan),
         stream);
}

}  // namespace mpk::cuda
