// What a launch asks of a device for its blocks, and how many clusters of them run at a time.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <utility>

#include "cuda/launch.h"

namespace mpk::cuda {

constexpr int portable_cluster = 8;

// Lets a kernel have such blocks on the current device: by itself it has 48 KiB, and clusters of 8.
// What it was given once it keeps, since another thread may be about to launch with it.
inline cudaError_t allow(const void* kernel, const Blocks& of) {
  struct Given {
    int64_t bytes = 0;
    bool wide_clusters = false;
  };
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, Given> given_to;
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  Given& given = given_to[{kernel, device}];
  const auto set = [&](cudaFuncAttribute attribute, int64_t value) {
    return cudaFuncSetAttribute(kernel, attribute, int(value));
  };
  if (of.bytes > given.bytes) {
    const cudaError_t error = set(cudaFuncAttributeMaxDynamicSharedMemorySize, of.bytes);
    if (error != cudaSuccess) return error;
    given.bytes = of.bytes;
  }
  if (of.cluster > portable_cluster && !given.wide_clusters) {
    const cudaError_t error = set(cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return error;
    given.wide_clusters = true;
  }
  return cudaSuccess;
}

// Refers to `attribute`, which must live as long.
inline cudaLaunchConfig_t configuration_of(const Blocks& of, int64_t count,
                                           cudaLaunchAttribute& attribute) {
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {.x = unsigned(of.cluster), .y = 1, .z = 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(unsigned(count));
  config.blockDim = dim3(unsigned(of.threads));
  config.dynamicSmemBytes = size_t(of.bytes);
  config.attrs = &attribute;
  config.numAttrs = of.cluster > 1 ? 1 : 0;
  return config;
}

// Clusters of such blocks that run at a time on the current device. Whatever keeps the device from
// running one means 0, and is no error that a later launch could be blamed for.
inline int64_t active_clusters(const void* kernel, const Blocks& of) {
  cudaLaunchAttribute attribute{};
  const cudaLaunchConfig_t config = configuration_of(of, of.cluster, attribute);
  int count = 0;
  cudaError_t error = allow(kernel, of);
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveClusters(&count, kernel, &config);
  if (error == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace mpk::cuda
