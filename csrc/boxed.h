// Functions of tensors as kernels of torch's dispatcher, as TORCH_BOX makes them, but for our
// tensors and without copies of arguments and results.
#pragma once

#include <torch/csrc/stable/library.h>

#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "tensor.h"

namespace mpk {

// How one argument is taken over and one result given away. Arguments are owned before any of them
// is looked at, so that a call that is refused keeps none.
template <class T>
struct Slot {
  using Owned = T;
  static Owned own(StableIValue value) { return torch::stable::detail::to<T>(value); }
  static T take(Owned& owned) { return std::move(owned); }
  static StableIValue give(const T& value) { return torch::stable::detail::from(value); }
};

template <>
struct Slot<Tensor> {
  using Owned = Tensor::Handle;
  static Owned own(StableIValue value) {
    return Owned(torch::stable::detail::to<AtenTensorHandle>(value));
  }
  static Tensor take(Owned& owned) { return Tensor(owned.release()); }
  static StableIValue give(Tensor& value) { return torch::stable::detail::from(value.release()); }
};

template <>
struct Slot<OptionalTensor> {
  using Owned = Tensor::Handle;  // or none
  static Owned own(StableIValue value) {
    const auto handle = torch::stable::detail::to<std::optional<AtenTensorHandle>>(value);
    return Owned(handle ? *handle : nullptr);
  }
  static OptionalTensor take(Owned& owned) {
    return owned ? OptionalTensor(Tensor(owned.release())) : std::nullopt;
  }
};

struct DeleteList {
  void operator()(StableListHandle list) const { torch_delete_list(list); }
};
using List = std::unique_ptr<std::remove_pointer_t<StableListHandle>, DeleteList>;

template <class T>
struct Slot<std::vector<T>> {
  using Owned = std::vector<typename Slot<T>::Owned>;
  static Owned own(StableIValue value) {
    const List list(torch::stable::detail::to<StableListHandle>(value));
    size_t size = 0;
    check(torch_list_size(list.get(), &size));
    Owned owned;
    owned.reserve(size);
    for (size_t at = 0; at < size; at++) {
      StableIValue element{};
      check(torch_list_get_item(list.get(), at, &element));
      owned.push_back(Slot<T>::own(element));
    }
    return owned;
  }
  static std::vector<T> take(Owned& owned) {
    if constexpr (std::is_same_v<typename Slot<T>::Owned, T>) {
      return std::move(owned);
    } else {
      std::vector<T> taken;
      taken.reserve(owned.size());
      for (auto& element : owned) taken.push_back(Slot<T>::take(element));
      return taken;
    }
  }
  static StableIValue give(std::vector<T>& values) {
    StableListHandle handle = nullptr;
    check(torch_new_list_reserve_size(values.size(), &handle));
    List list(handle);
    for (T& value : values) check(torch_list_push_back(handle, Slot<T>::give(value)));
    return torch::stable::detail::from(list.release());
  }
};

template <class Function>
struct Boxing;

template <class Result, class... Arguments>
struct Boxing<Result (*)(Arguments...)> {
  using Owned = std::tuple<typename Slot<Arguments>::Owned...>;
  template <size_t... at>
  static Owned own(const StableIValue* stack, std::index_sequence<at...>) {
    return {Slot<Arguments>::own(stack[at])...};
  }
  template <size_t... at>
  static Result apply(Result (*function)(Arguments...), Owned& owned, std::index_sequence<at...>) {
    return std::apply(function,
                      std::tuple<Arguments...>{Slot<Arguments>::take(std::get<at>(owned))...});
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
    constexpr std::index_sequence_for<Arguments...> all{};
    Owned owned = own(stack, all);
    give(stack, apply(function, owned, all));
  }
};

template <auto function>
void boxed(StableIValue* stack, uint64_t arguments, uint64_t) {
  Boxing<decltype(function)>::call(function, stack, arguments);
}

}  // namespace mpk
