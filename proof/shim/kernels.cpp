// The shipped kernels on the machine of machine.h, with a C interface.
#include "cuda/cross_connect.cuh"
#include "cuda/cross_connect_backward.cuh"
#include "cuda/gate_parameter_grads.cuh"

namespace mpk::cuda {
namespace {

// The largest number of kept maps that has a kernel; a build for a sanitizer has fewer.
#ifndef SHIM_KEPT
#define SHIM_KEPT 4
#endif

template <class T, int kept>
void forward_body(const void* p) {
  cross_connect_part<T, kept>(*static_cast<const CrossConnectArguments*>(p));
}
template <class T, int kept>
void backward_body(const void* p) {
  cross_connect_backward_part<T, kept>(*static_cast<const CrossConnectBackwardArguments*>(p));
}
void weights_body(const void* p) {
  gate_weights_block(*static_cast<const GateWeightArguments*>(p));
}

using Body = void (*)(const void*);

template <class T, int kept = 1>
Body body_of(bool backward, int count) {
  if (kept == count) return backward ? backward_body<T, kept> : forward_body<T, kept>;
  if constexpr (kept < SHIM_KEPT) return body_of<T, kept + 1>(backward, count);
  return nullptr;
}

Body body_of(Dtype dtype, bool backward, int count) {
  switch (dtype) {
    case Dtype::f32:
      return body_of<float>(backward, count);
    case Dtype::bf16:
      return body_of<bf16>(backward, count);
    case Dtype::f16:
      return body_of<f16>(backward, count);
    default:
      return nullptr;
  }
}

template <class Arguments>
const char* run_samples(const Arguments& arguments, const Geometry& geometry, bool backward,
                        unsigned seed) {
  const Plan& plan = arguments.plan;
  const Body body = body_of(geometry.dtype, backward, plan.kept);
  if (!body) return "no such kernel";
  return shim::run({.blocks = geometry.batch * plan.cluster,
                    .cluster = plan.cluster,
                    .threads = plan.threads,
                    .shared_bytes = size_t(shared_bytes(plan)),
                    .seed = seed,
                    .body = body,
                    .arguments = &arguments});
}

}  // namespace
}  // namespace mpk::cuda

using namespace mpk;

extern "C" {

// Each returns null, or an error message.
const char* forward(const CrossConnect* p, int64_t cluster, int64_t threads, unsigned seed) {
  return cuda::run_samples(cuda::arguments_of(*p, cluster, threads), p->geometry, false, seed);
}

const char* backward(const CrossConnectBackward* p, int64_t cluster, int64_t threads,
                     unsigned seed) {
  return cuda::run_samples(cuda::arguments_of(*p, cluster, threads), p->geometry, true, seed);
}

const char* weights(const GateWeightGradients* p, int64_t threads, unsigned seed) {
  const cuda::GateWeightArguments arguments = cuda::arguments_of(*p);
  return shim::run({.blocks = cuda::blocks_of(arguments),
                    .cluster = 1,
                    .threads = int(threads),
                    .shared_bytes = size_t(cuda::weight_shared_bytes(threads)),
                    .seed = seed,
                    .body = cuda::weights_body,
                    .arguments = &arguments});
}

// Bytes of shared memory per block.
int64_t plan_bytes(const Geometry* geometry, const int64_t* sizes, bool backward) {
  return cuda::shared_bytes(cuda::plan_for(*geometry, sizes[0], sizes[1], sizes[2], sizes[3],
                                           sizes[4], sizes[5], backward));
}

// Registers a tensor's bytes, with counters of the reads and writes of each byte. bytes = 0 forgets
// all tensors.
void know(uintptr_t begin, int64_t bytes, uint8_t* reads, uint8_t* writes) {
  if (bytes == 0) {
    shim::range_count = 0;
  } else {
    shim::ranges[shim::range_count++] = {
        .begin = begin, .end = begin + uintptr_t(bytes), .reads = reads, .writes = writes};
  }
}

// From now on, kernels skip the barrier in this line.
void skip(const char* file, int line) {
  static char name[64];
  std::snprintf(name, sizeof name, "/%s", file);
  shim::skipped = {.file = name, .line = line};
}

// From now on, the barrier of a cluster in this line orders no memory.
void relax(const char* file, int line) {
  static char name[64];
  std::snprintf(name, sizeof name, "/%s", file);
  shim::relaxed = {.file = name, .line = line};
}
}
