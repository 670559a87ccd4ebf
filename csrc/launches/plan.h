// How one call of an operator is served: tensors to allocate, kernels to launch, copies to make.
//
// Python plans (mpkernels/triton/plan.py) and says so in a list of integers, which `Plan` reads.
#pragma once

#include <torch/csrc/stable/c/shim.h>

#include <array>
#include <cstdint>
#include <vector>

#include "tensor.h"

namespace mpk::launches {

using Handle = Tensor::Handle;

// Sizes, strides (in elements) and dtype, as torch numbers it, of a tensor.
struct Format {
  int32_t dtype;
  int64_t itemsize;
  std::vector<int64_t> sizes, strides;
};

// Memory that a plan can name: of an argument, of an output, or of the scratch of the call.
struct Place {
  enum class Of : int64_t { argument, output, scratch };
  Of of;
  int64_t index, offset;  // offset in bytes
};

// A kernel parameter: an address, or eight bytes of which the kernel reads those it declares.
struct Parameter {
  bool address;
  Place place;
  uint64_t value;
};

struct Launch {
  void* kernel;
  std::array<uint32_t, 3> grid;
  uint32_t threads, shared_bytes;
  bool overlaps;  // begins before the launch before it has ended
  std::vector<Parameter> parameters;
};

struct Copy {
  Place to, from;
  Format to_format, from_format;
};

struct Step {
  bool is_launch;
  Launch launch;
  Copy copy;
};

struct Device {
  int32_t type = 0, index = 0;
  bool is_cuda() const { return type == aoti_torch_device_type_cuda(); }
};

class Plan {
 public:
  explicit Plan(const std::vector<int64_t>& said);

  // The outputs, given where the data of the call's tensors lie; null for a None.
  std::vector<Handle> run(std::vector<char*> addresses, const Device& device) const;

 private:
  std::vector<Format> outputs_;
  int64_t scratch_bytes_ = 0;
  std::vector<Step> steps_;
};

}  // namespace mpk::launches
