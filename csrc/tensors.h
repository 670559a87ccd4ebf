// Between torch's tensors and the kernels' structs, over the stable ABI.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <vector>

#include "problem.h"

namespace mpk {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::f32;
    case ScalarType::Double:
      return Dtype::f64;
    case ScalarType::BFloat16:
      return Dtype::bf16;
    case ScalarType::Half:
      return Dtype::f16;
    default:
      STD_TORCH_CHECK(false, "xs must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType accumulate_type(Dtype dtype) {
  return dtype == Dtype::f64 ? ScalarType::Double : ScalarType::Float;
}

inline int64_t positions_of(const Tensor& x) {
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); d++) positions *= x.size(d);
  return positions;
}

// Whether outputs like x are channels_last. mpkernels/ops/layout.py has the same rule.
inline bool is_channels_last(const Tensor& x) {
  return x.dim() > 2 && x.size(1) > 1 && x.stride(1) == 1 && x.stride(x.dim() - 1) >= x.size(1);
}

// A vector, and a map of one position, is a row of channels in either format.
inline Geometry geometry_of(const Tensor& x) {
  const int64_t positions = positions_of(x);
  return {dtype_of(x), positions == 1 || is_channels_last(x), x.size(0), x.size(1), positions};
}

// The strides with which x can be read where it lies, or nothing if it cannot.
inline std::optional<Map> map_in_place(const Tensor& x, const Geometry& geometry) {
  int64_t unit = geometry.channels_last ? 0 : 1, row = geometry.cols();
  if (geometry.channels_last) {
    if (geometry.channels > 1 && x.stride(1) != 1) return std::nullopt;
  } else if (geometry.channels > 1) {
    row = x.stride(1);
  }
  for (int64_t d = x.dim() - 1; d >= 2; d--) {
    if (x.size(d) == 1) continue;
    if (unit == 0) unit = row = x.stride(d);
    if (x.stride(d) != unit) return std::nullopt;
    unit *= x.size(d);
  }
  return Map{x.data_ptr(), x.stride(0), row};
}

inline Tensor empty_strided(const Tensor& like, const std::vector<int64_t>& sizes,
                            const std::vector<int64_t>& strides) {
  StableIValue stack[6] = {
      torch::stable::detail::from(sizes),
      torch::stable::detail::from(strides),
      torch::stable::detail::from(std::optional(like.scalar_type())),
      torch::stable::detail::from(std::optional<torch::headeronly::Layout>()),
      torch::stable::detail::from(std::optional(like.device())),
      torch::stable::detail::from(std::optional<bool>()),
  };
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::empty_strided", "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// A dense map of the shape, dtype and device of x.
inline Tensor empty_map(const Tensor& x, bool channels_last) {
  const int64_t dims = x.dim(), channels = x.size(1);
  std::vector<int64_t> sizes(dims), strides(dims);
  int64_t next = channels_last ? channels : 1;
  for (int64_t d = 0; d < dims; d++) sizes[d] = x.size(d);
  for (int64_t d = dims - 1; d >= 2; d--) {
    strides[d] = next;
    next *= sizes[d] > 0 ? sizes[d] : 1;
  }
  strides[1] = channels_last ? 1 : next;
  strides[0] = channels_last ? next : next * (channels > 0 ? channels : 1);
  return empty_strided(x, sizes, strides);
}

// Maps with the tensors that own their memory.
class Maps {
 public:
  // Reads x where it lies, or copies it once.
  void read(const Tensor& x, const Geometry& geometry) {
    STD_TORCH_CHECK(x.size(0) == geometry.batch && x.size(1) == geometry.channels &&
                        positions_of(x) == geometry.positions && dtype_of(x) == geometry.dtype,
                    "all maps of one router must have one shape and dtype");
    std::optional<Map> map = map_in_place(x, geometry);
    if (map) return add(x, *map);
    Tensor copy = empty_map(x, geometry.channels_last && x.dim() > 2);
    torch::stable::copy_(copy, x);
    map = map_in_place(copy, geometry);
    STD_TORCH_CHECK(map.has_value(), "a dense copy can be read in place");
    add(copy, *map);
  }

  // Adds a new dense map in the format of x.
  void write(const Tensor& x, const Geometry& geometry) {
    const Tensor y = empty_map(x, is_channels_last(x));
    std::optional<Map> map = map_in_place(y, geometry);
    if (!map) {  // x has another format than the first path: write that one, copy at the end
      const Tensor other = empty_map(x, geometry.channels_last);
      pending_.push_back({y, other});
      map = map_in_place(other, geometry);
    }
    add(y, *map);
  }

  void skip() { maps_.push_back(Map{}); }

  std::vector<Tensor> finish() {
    for (auto& [to, from] : pending_) torch::stable::copy_(to, from);
    return tensors_;
  }

  const Map* data() const { return maps_.data(); }
  int64_t size() const { return int64_t(maps_.size()); }

 private:
  void add(const Tensor& tensor, const Map& map) {
    tensors_.push_back(tensor);
    maps_.push_back(map);
  }

  std::vector<Tensor> tensors_;
  std::vector<Map> maps_;
  std::vector<std::pair<Tensor, Tensor>> pending_;
};

// t, contiguous and of the given dtype; itself where it is that already.
inline Tensor contiguous_as(const Tensor& t, ScalarType type) {
  const Tensor converted = t.scalar_type() == type ? t : torch::stable::to(t, type);
  return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

inline Tensor empty_like_of(const Tensor& t, std::vector<int64_t> sizes, ScalarType type) {
  return torch::stable::new_empty(t, sizes, type);
}

// 64-byte aligned memory of one task.
class Scratch {
 public:
  explicit Scratch(size_t bytes) : memory_(bytes / sizeof(Line) + 1) {}
  void* data() { return memory_.data(); }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> memory_;
};

}  // namespace mpk
