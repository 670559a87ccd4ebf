// The compiled kernels, and their launch.
//
// One for each dtype and number of kept maps: 3 x 4 forward, 3 x 4 backward. Layouts, alignments
// and the other number of paths are arguments: they are uniform branches outside the inner loops.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <type_traits>

#include "cuda/configuration.h"
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
using Kernel = void (*)(Arguments);

template <class Arguments>
void launch(Kernel<Arguments> kernel, const Arguments& arguments, int64_t count, const Blocks& of,
            void* stream) {
  if (count == 0) return;
  STD_TORCH_CHECK(count < (int64_t(1) << 31), "a batch has too many samples for one launch");
  STD_CUDA_CHECK(allow(reinterpret_cast<const void*>(kernel), of));
  cudaLaunchAttribute attribute{};
  cudaLaunchConfig_t config = configuration_of(of, count, attribute);
  config.stream = static_cast<cudaStream_t>(stream);
  STD_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments));
}

template <class Arguments>
void launch_samples(Kernel<Arguments> kernel, const Arguments& arguments, int64_t batch,
                    void* stream) {
  const Plan& plan = arguments.plan;
  const Blocks of{.cluster = plan.cluster, .threads = plan.threads, .bytes = shared_bytes(plan)};
  launch(kernel, arguments, batch * plan.cluster, of, stream);
}

}  // namespace mpk::cuda
