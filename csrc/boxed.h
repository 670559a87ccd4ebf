// Functions of tensors as kernels of torch's dispatcher, as TORCH_BOX makes them, but for our
// tensors and without copies of arguments and results.
#pragma once

#include <torch/csrc/stable/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "tensor.h"

namespace mpk {

// Takes over one argument, or gives one result away.
template <class T>
struct Slot {
  static T take(StableIValue value) { return torch::stable::detail::to<T>(value); }
  static StableIValue give(const T& value) { return torch::stable::detail::from(value); }
};

template <>
struct Slot<Tensor> {
  static Tensor take(StableIValue value) {
    return Tensor(torch::stable::detail::to<AtenTensorHandle>(value));
  }
  static StableIValue give(Tensor& value) { return torch::stable::detail::from(value.release()); }
};

template <>
struct Slot<OptionalTensor> {
  static OptionalTensor take(StableIValue value) {
    const auto handle = torch::stable::detail::to<std::optional<AtenTensorHandle>>(value);
    return handle ? OptionalTensor(Tensor(*handle)) : std::nullopt;
  }
};

template <class T>
struct Slot<std::vector<T>> {
  static std::vector<T> take(StableIValue value) {
    const auto list = torch::stable::detail::to<StableListHandle>(value);
    size_t size = 0;
    TORCH_ERROR_CODE_CHECK(torch_list_size(list, &size));
    std::vector<T> taken;
    taken.reserve(size);
    for (size_t at = 0; at < size; at++) {
      StableIValue element{};
      TORCH_ERROR_CODE_CHECK(torch_list_get_item(list, at, &element));
      taken.push_back(Slot<T>::take(element));
    }
    TORCH_ERROR_CODE_CHECK(torch_delete_list(list));
    return taken;
  }
  static StableIValue give(std::vector<T>& values) {
    StableListHandle list = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_new_list_reserve_size(values.size(), &list));
    for (T& value : values)
      TORCH_ERROR_CODE_CHECK(torch_list_push_back(list, Slot<T>::give(value)));
    return torch::stable::detail::from(list);
  }
};

template <class Function>
struct Boxing;

template <class Result, class... Arguments>
struct Boxing<Result (*)(Arguments...)> {
  template <size_t... at>
  static std::tuple<Arguments...> take(const StableIValue* stack, std::index_sequence<at...>) {
    return {Slot<Arguments>::take(stack[at])...};
  }
  template <class... Results, size_t... at>
  static void give(StableIValue* stack, std::tuple<Results...>& results,
                   std::index_sequence<at...>) {
    ((stack[at] = Slot<Results>::give(std::get<at>(results))), ...);
  }
  template <class... Results>
  static void give(StableIValue* stack, std::tuple<Results...> results) {
    give(stack, results, std::index_sequence_for<Results...>{});
  }
  template <class T>
  static void give(StableIValue* stack, T result) {
    stack[0] = Slot<T>::give(result);
  }
  static void call(Result (*function)(Arguments...), StableIValue* stack, uint64_t count) {
    STD_TORCH_CHECK(count == sizeof...(Arguments), "the schema has ", count,
                    " arguments, the kernel has ", sizeof...(Arguments));
    give(stack, std::apply(function, take(stack, std::index_sequence_for<Arguments...>{})));
  }
};

template <auto function>
void boxed(StableIValue* stack, uint64_t arguments, uint64_t) {
  Boxing<decltype(function)>::call(function, stack, arguments);
}

}  // namespace mpk
