// What a launch needs of CUDA, found when it is first needed: neither a toolkit nor a CUDA build of
// torch is needed to compile this.
#pragma once

#include <cstdint>
#include <string>

namespace mpk::launches {

// CUlaunchAttribute and CUlaunchConfig of the driver's interface.
struct Attribute {
  int32_t id;
  int32_t padding;
  union {
    char bytes[64];
    int32_t programmatic_stream_serialization;
  };
};
constexpr int32_t programmatic_stream_serialization = 6;

struct Configuration {
  uint32_t grid[3], block[3], shared_bytes;
  void* stream;
  const Attribute* attributes;
  uint32_t attribute_count;
};

// Functions of libcuda and of torch's CUDA library. Each returns 0 if it succeeds.
struct Driver {
  int32_t (*launch)(const Configuration*, void* kernel, void** parameters, void** extra) = nullptr;
  int32_t (*context)(void** current) = nullptr;
  int32_t (*make_current)(void* context) = nullptr;
  int32_t (*primary_context)(void** context, int32_t device) = nullptr;
  int32_t (*stream)(int32_t device, void** stream) = nullptr;
  std::string why_not;  // what was not found, or empty
};

// The one in force; the first call looks for it.
const Driver& driver();

// Makes the device's context current in this thread, if it has none: a thread that has done nothing
// but take memory that PyTorch keeps has none yet.
void ensure_context(int32_t device);

// From now on the functions of this library, an emulation of libcuda, are in force. CPU tensors
// stand in for those of its devices.
void emulate(const std::string& library);

}  // namespace mpk::launches
