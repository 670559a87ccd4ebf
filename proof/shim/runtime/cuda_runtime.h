// Stands in for CUDA's runtime on a CPU: devices whose answers a test sets, and what was asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidClusterSize = 912 };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed,
};
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x) : x(x) {}
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  union {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
using cudaStream_t = void*;
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace runtime {

struct Device {
  int64_t most_bytes = 0;  // of a block
  int clusters = 0;        // that run at a time, whatever their size
};
// As CUDA has it, a kernel begins with 48 KiB and clusters of up to 8 on each device.
struct Allowed {
  int64_t bytes = 48 << 10;
  bool wide_clusters = false;
};

inline std::map<int, Device> devices;
inline std::map<std::pair<const void*, int>, Allowed> allowed;
inline int current = 0, attributes_set = 0;
inline cudaError_t last = cudaSuccess;

inline cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

}  // namespace runtime

inline cudaError_t cudaGetDevice(int* device) {
  *device = runtime::current;
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return std::exchange(runtime::last, cudaSuccess); }

inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int to) {
  runtime::attributes_set++;
  runtime::Allowed& allowed = runtime::allowed[{kernel, runtime::current}];
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    allowed.wide_clusters = to != 0;
    return cudaSuccess;
  }
  if (to > runtime::devices[runtime::current].most_bytes)
    return runtime::told(cudaErrorInvalidValue);
  allowed.bytes = to;
  return cudaSuccess;
}

inline cudaError_t cudaOccupancyMaxActiveClusters(int* count, const void* kernel,
                                                  const cudaLaunchConfig_t* config) {
  const runtime::Allowed& allowed = runtime::allowed[{kernel, runtime::current}];
  const unsigned cluster = config->numAttrs ? config->attrs[0].val.clusterDim.x : 1;
  if (config->gridDim.x % cluster || int64_t(config->dynamicSmemBytes) > allowed.bytes)
    return runtime::told(cudaErrorInvalidValue);
  if (cluster > 8 && !allowed.wide_clusters) return runtime::told(cudaErrorInvalidClusterSize);
  *count = runtime::devices[runtime::current].clusters;
  return cudaSuccess;
}
