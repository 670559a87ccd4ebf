#include "launches/call.h"

#include <algorithm>
#include <optional>

namespace mpk::launches {

std::string name_of(std::string_view schema) {
  return std::string(schema.substr(0, schema.find('(')));
}

std::vector<Kind> kinds_of(std::string_view schema) {
  std::vector<Kind> kinds;
  size_t at = schema.find('(') + 1;
  for (const size_t end = schema.find(')'); at < end;) {
    const std::string_view type = schema.substr(at, schema.find(' ', at) - at);
    kinds.push_back(type == "Tensor"      ? Kind::tensor
                    : type == "Tensor[]"  ? Kind::tensors
                    : type == "Tensor?[]" ? Kind::optional_tensors
                    : type == "int"       ? Kind::integer
                                          : Kind::boolean);
    at = std::min(schema.find(", ", at), end) + 2;
  }
  return kinds;
}

namespace {

// A list of the stack, and what its elements are as long as nobody has taken them.
class Elements {
 public:
  explicit Elements(StableIValue value)
      : list_(torch::stable::detail::to<StableListHandle>(value)) {
    check(torch_list_size(list_.get(), &size_));
  }
  size_t size() const { return size_; }
  StableIValue operator[](size_t at) const {
    StableIValue element{};
    check(torch_list_get_item(list_.get(), at, &element));
    return element;
  }

 private:
  const List list_;
  size_t size_ = 0;
};

}  // namespace

Call::Call(const std::vector<Kind>& kinds, StableIValue* stack) : kinds_(kinds) {
  constexpr size_t most = 24;  // of most calls
  key_.reserve(14 * most);
  tensors_.reserve(most);
  addresses_.reserve(most);
  for (const Kind kind : kinds) {
    const StableIValue value = *stack++;
    if (kind == Kind::integer || kind == Kind::boolean) {
      const int64_t number = kind == Kind::integer ? torch::stable::detail::to<int64_t>(value)
                                                   : torch::stable::detail::to<bool>(value);
      numbers_.push_back(number);
      key_.push_back(number);
    } else if (kind == Kind::tensor) {
      add(torch::stable::detail::to<AtenTensorHandle>(value));
    } else {
      const Elements elements(value);
      counts_.push_back(int64_t(elements.size()));
      key_.push_back(counts_.back());
      for (size_t at = 0; at < elements.size(); at++)
        add(kind == Kind::tensors
                ? torch::stable::detail::to<AtenTensorHandle>(elements[at])
                : torch::stable::detail::to<std::optional<AtenTensorHandle>>(elements[at])
                      .value_or(nullptr));
    }
  }
}

void Call::add(AtenTensorHandle owned) {
  tensors_.emplace_back(owned);
  if (!owned) {
    key_.push_back(-1);
    addresses_.push_back(nullptr);
    return;
  }
  int64_t dims = 0, *sizes = nullptr, *strides = nullptr;
  int32_t dtype = 0;
  Device device;
  const void* data = nullptr;
  check(aoti_torch_get_dtype(owned, &dtype));
  check(aoti_torch_get_device_type(owned, &device.type));
  check(aoti_torch_get_device_index(owned, &device.index));
  check(torch_get_const_data_ptr(owned, &data));
  check(aoti_torch_get_dim(owned, &dims));
  check(aoti_torch_get_sizes(owned, &sizes));
  check(aoti_torch_get_strides(owned, &strides));
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  const size_t at = key_.size();
  key_.resize(at + 5 + 2 * size_t(dims));
  int64_t* next = key_.data() + at;
  for (const int64_t value :
       {int64_t(dtype), int64_t(device.type), int64_t(device.index), int64_t(aligned), dims})
    *next++ = value;
  next = std::copy_n(sizes, dims, next);
  std::copy_n(strides, dims, next);
  addresses_.push_back(static_cast<char*>(const_cast<void*>(data)));
  if (device_.type < 0) device_ = device;
}

std::string Call::shapes() const {
  std::string text;
  for (const Handle& t : tensors_) {
    int64_t dims = 0, *sizes = nullptr;
    text += text.empty() ? "" : ", ";
    if (!t) {
      text += "None";
      continue;
    }
    check(aoti_torch_get_dim(t.get(), &dims));
    check(aoti_torch_get_sizes(t.get(), &sizes));
    text += "[";
    for (int64_t d = 0; d < dims; d++) text += (d ? ", " : "") + std::to_string(sizes[d]);
    text += "]";
  }
  return text;
}

void Call::release(StableIValue* stack) {
  size_t tensor = 0, list = 0, number = 0;
  for (const Kind kind : kinds_) {
    StableIValue& value = *stack++;
    if (kind == Kind::integer) {
      value = torch::stable::detail::from(numbers_[number++]);
    } else if (kind == Kind::boolean) {
      value = torch::stable::detail::from(numbers_[number++] != 0);
    } else if (kind == Kind::tensor) {
      value = torch::stable::detail::from(tensors_[tensor++].release());
    } else {
      StableListHandle handle = nullptr;
      const int64_t count = counts_[list++];
      check(torch_new_list_reserve_size(size_t(count), &handle));
      for (int64_t left = count; left > 0; left--) {
        const AtenTensorHandle t = tensors_[tensor++].release();
        using Optional = std::optional<AtenTensorHandle>;
        check(torch_list_push_back(
            handle, kind == Kind::tensors
                        ? torch::stable::detail::from(t)
                        : torch::stable::detail::from(t ? Optional(t) : Optional())));
      }
      value = torch::stable::detail::from(handle);
    }
  }
}

}  // namespace mpk::launches
