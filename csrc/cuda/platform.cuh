// The words in which the kernels speak of threads, clusters and memory, on a GPU.
//
// proof/shim/cuda/platform.cuh says the same words on a CPU, so that the kernels run there.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>

#include <cstdint>

#define MPK_DEVICE __device__ __forceinline__

namespace mpk::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

// W neighbouring elements; 16 bytes where W is not 1.
template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T values[W];
};
template <class T>
constexpr int vector_size = 16 / sizeof(T);

MPK_DEVICE int thread() { return int(threadIdx.x); }
MPK_DEVICE int threads() { return int(blockDim.x); }
MPK_DEVICE int64_t block() { return blockIdx.x; }
MPK_DEVICE void sync_block() { __syncthreads(); }
MPK_DEVICE float shuffle_xor(float value, int lane) {
  return __shfl_xor_sync(0xffffffffu, value, lane);
}
MPK_DEVICE float* shared_memory() {
  extern __shared__ __align__(16) float memory[];
  return memory;
}

// Barriers of all blocks of a cluster, and the memory of another one; a cluster of one is a block.
// What a thread wrote before `sync_cluster` is there for all after it. `leave_cluster` says only
// that this thread has read all it needs of other blocks: it orders no memory, so no earlier write
// is waited for. `wait_cluster` then waits for the others.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
MPK_DEVICE void sync_cluster(int cluster) {
  if (cluster == 1) return __syncthreads();
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
}
MPK_DEVICE void leave_cluster(int cluster) {
  if (cluster > 1) __cluster_barrier_arrive_relaxed();
}
MPK_DEVICE void wait_cluster(int cluster) {
  if (cluster > 1) __cluster_barrier_wait();
}
MPK_DEVICE const float* remote(const float* at, int rank) {
  return static_cast<const float*>(__cluster_map_shared_rank(at, unsigned(rank)));
}
#else
MPK_DEVICE void sync_cluster(int) { __syncthreads(); }
MPK_DEVICE void leave_cluster(int) {}
MPK_DEVICE void wait_cluster(int) {}
MPK_DEVICE const float* remote(const float* at, int) { return at; }
#endif

// Reads and writes of global memory; `fetch` reads shared memory.
template <int W, class T>
MPK_DEVICE Pack<T, W> read(const T* at) {
  return *reinterpret_cast<const Pack<T, W>*>(at);
}
template <int W, class T>
MPK_DEVICE Pack<T, W> fetch(const T* at) {
  return *reinterpret_cast<const Pack<T, W>*>(at);
}
template <int W, class T>
MPK_DEVICE void write(T* at, const Pack<T, W>& pack) {
  *reinterpret_cast<Pack<T, W>*>(at) = pack;
}
MPK_DEVICE float read_float(const float* at) { return __ldg(at); }
MPK_DEVICE void write_float(float* at, float value) { *at = value; }

// From global to shared memory: visible once the group is complete and the block has met.
template <int W, class T>
MPK_DEVICE void copy_async(T* to, const T* from) {
  if constexpr (sizeof(T) * W == 16)
    __pipeline_memcpy_async(to, from, 16);
  else
    *reinterpret_cast<Pack<T, W>*>(to) = read<W>(from);
}
MPK_DEVICE void end_copy_group() { __pipeline_commit(); }
// Waits for all but the last `pending` groups of this thread.
template <int pending>
MPK_DEVICE void wait_copies() {
  __pipeline_wait_prior(pending);
}

MPK_DEVICE float exponential(float x) { return expf(x); }

MPK_DEVICE float widen(float x) { return x; }
MPK_DEVICE float widen(bf16 x) { return __bfloat162float(x); }
MPK_DEVICE float widen(f16 x) { return __half2float(x); }

// Rounded once, two elements an instruction where the type has one.
template <int W>
MPK_DEVICE void narrow(const float (&from)[W], Pack<float, W>& to) {
#pragma unroll
  for (int e = 0; e < W; e++) to.values[e] = from[e];
}
template <int W>
MPK_DEVICE void narrow(const float (&from)[W], Pack<bf16, W>& to) {
  if constexpr (W == 1) {
    to.values[0] = __float2bfloat16_rn(from[0]);
  } else {
#pragma unroll
    for (int e = 0; e < W; e += 2)
      *reinterpret_cast<__nv_bfloat162*>(to.values + e) =
          __floats2bfloat162_rn(from[e], from[e + 1]);
  }
}
template <int W>
MPK_DEVICE void narrow(const float (&from)[W], Pack<f16, W>& to) {
  if constexpr (W == 1) {
    to.values[0] = __float2half_rn(from[0]);
  } else {
#pragma unroll
    for (int e = 0; e < W; e += 2)
      *reinterpret_cast<__half2*>(to.values + e) = __floats2half2_rn(from[e], from[e + 1]);
  }
}

}  // namespace mpk::cuda
