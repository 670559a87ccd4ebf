// Where a launch goes: the device of its tensors, whichever is current when it is called.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "tensor.h"

namespace mpk::cuda {

// The device of x, current as long as this lives, and its current stream.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : guard_(index_of(x)) {
    check(aoti_torch_get_current_cuda_stream(index_of(x), &stream_));
  }
  void* stream() const { return stream_; }

 private:
  static int32_t index_of(const Tensor& x) {
    int32_t index = 0;
    check(aoti_torch_get_device_index(x.get(), &index));
    return index;
  }
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace mpk::cuda
