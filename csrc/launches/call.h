// A call of an operator as a list of integers: all that a plan may depend on.
#pragma once

#include <string_view>
#include <vector>

#include "boxed.h"
#include "launches/plan.h"

namespace mpk::launches {

enum class Kind { tensor, tensors, optional_tensors, integer, boolean };

// What the operators' schemas are made of (mpkernels/ops/schemas.def).
std::vector<Kind> kinds_of(std::string_view schema);
std::string name_of(std::string_view schema);

// Owns the arguments of a call.
class Call {
 public:
  // Takes them from the stack.
  Call(const std::vector<Kind>& kinds, StableIValue* stack);

  // Of each argument, in order: a number, or what is known of a tensor; before those of a list,
  // their count. Of a tensor: -1 for a None, else dtype, device type and index, whether it begins
  // at 16 bytes, dimensions, sizes, strides.
  const std::vector<int64_t>& key() const { return key_; }
  const std::vector<char*>& addresses() const { return addresses_; }  // null for a None
  const Device& device() const { return device_; }                    // of the first tensor
  std::string shapes() const;

  // Gives them back to the stack.
  void release(StableIValue* stack);

 private:
  void add(AtenTensorHandle owned);

  const std::vector<Kind>& kinds_;
  std::vector<int64_t> key_, numbers_, counts_;  // of the lists
  std::vector<Handle> tensors_;
  std::vector<char*> addresses_;
  Device device_{.type = -1};
};

}  // namespace mpk::launches
