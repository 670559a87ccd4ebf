// Between torch's tensors and the kernels' structs.
#pragma once

#include <vector>

#include "boxed.h"

namespace mpk {

// Dtype of sums, gates and pooled values.
inline Dtype accumulate_type(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

inline int64_t positions_of(const Tensor& x) {
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); d++) positions *= x.size(d);
  return positions;
}

// Gates of any strides, in the accumulate dtype.
struct GateValues {
  OptionalTensor converted;
  Gates view;
  GateValues(const Tensor& gates, const Geometry& geometry, int64_t m) {
    const bool by_channel = gates.dim() == 4;
    STD_TORCH_CHECK((gates.dim() == 3 || by_channel) && gates.size(0) == geometry.batch &&
                        gates.size(1) == m && gates.size(2) > 0 &&
                        (!by_channel || gates.size(3) == geometry.channels),
                    "gates must be [B, m, n] or [B, m, n, C]");
    const Dtype type = accumulate_type(geometry.dtype);
    if (gates.dtype() != type || !gates.has_data()) converted = contiguous_copy(gates, type);
    const Tensor& tensor = converted ? *converted : gates;
    view = {.data = tensor.data_ptr(),
            .batch_stride = tensor.stride(0),
            .input_stride = tensor.stride(1),
            .output_stride = tensor.stride(2),
            .channel_stride = by_channel ? tensor.stride(3) : 0,
            .by_channel = by_channel};
  }
};

inline void check_paths(const std::vector<Tensor>& xs) {
  STD_TORCH_CHECK(!xs.empty() && xs[0].dim() >= 2, "xs must be maps [B, C, *spatial]");
  for (const Tensor& x : xs)
    STD_TORCH_CHECK(x.has_shape(xs[0].sizes(), xs[0].dim()) && x.dtype() == xs[0].dtype(),
                    "all xs must have one shape and dtype");
}

// Whether outputs like x are channels_last: strides of dimensions of size 1 say nothing, where
// there is another. mpkernels/ops/layout.py has the same rule.
inline bool is_channels_last(const Tensor& x) {
  int64_t inner = x.dim() - 1;
  while (inner > 2 && x.size(inner) == 1) inner--;
  if (x.size(inner) == 1) inner = x.dim() - 1;
  return x.dim() > 2 && x.size(1) > 1 && x.stride(1) == 1 && x.stride(inner) >= x.size(1);
}

// A vector, and a map of one position, is a row of channels in either format.
inline Geometry geometry_of(const Tensor& x) {
  const int64_t positions = positions_of(x);
  return {.dtype = x.dtype(),
          .channels_last = positions == 1 || is_channels_last(x),
          .batch = x.size(0),
          .channels = x.size(1),
          .positions = positions};
}

// The strides with which x can be read where it lies, or nothing if it cannot.
inline std::optional<Map> map_in_place(const Tensor& x, const Geometry& geometry) {
  if (geometry.positions == 0) return Map{};  // without an element, strides mean nothing
  int64_t unit = 1, row = geometry.cols();
  bool known = !geometry.channels_last;  // there, the innermost stride is the unit, 0 too
  if (geometry.channels_last) {
    if (geometry.channels > 1 && x.stride(1) != 1) return std::nullopt;
  } else if (geometry.channels > 1) {
    row = x.stride(1);
  }
  for (int64_t d = x.dim() - 1; d >= 2; d--) {
    if (x.size(d) == 1) continue;
    if (!known) unit = row = x.stride(d);
    known = true;
    if (x.stride(d) != unit) return std::nullopt;
    unit *= x.size(d);
  }
  return Map{.data = x.data_ptr(), .batch_stride = x.stride(0), .row_stride = row};
}

// A new dense map like x, of so many channels.
inline Tensor empty_map(const Tensor& x, bool channels_last, int64_t channels) {
  constexpr int64_t most = 64;
  const int64_t dims = x.dim();
  STD_TORCH_CHECK(dims <= most, "maps must have at most 64 dimensions");
  int64_t sizes[most], strides[most], next = channels_last ? channels : 1;
  sizes[0] = x.size(0);
  sizes[1] = channels;
  for (int64_t d = dims - 1; d >= 2; d--) {
    sizes[d] = x.size(d);
    strides[d] = next;
    next *= x.size(d) > 0 ? x.size(d) : 1;
  }
  strides[1] = channels_last ? 1 : next;
  strides[0] = channels_last ? next : next * (channels > 0 ? channels : 1);
  return empty_strided(sizes, strides, dims, x.dtype(), x);
}
inline Tensor empty_map(const Tensor& x, bool channels_last) {
  return empty_map(x, channels_last, x.size(1));
}

// Maps, and the tensors that were allocated for them.
class Maps {
 public:
  explicit Maps(int64_t count) { maps_.reserve(count); }

  // Reads x, which must stay, where it lies, or copies it once.
  void read(const Tensor& x, const Geometry& geometry) {
    STD_TORCH_CHECK(x.dim() >= 2 && x.size(0) == geometry.batch && x.size(1) == geometry.channels &&
                        positions_of(x) == geometry.positions && x.dtype() == geometry.dtype,
                    "all maps of one router must have one shape and dtype");
    std::optional<Map> map = x.has_data() ? map_in_place(x, geometry) : std::nullopt;
    if (!map) {
      Tensor dense = empty_map(x, geometry.channels_last && x.dim() > 2);
      copy(dense, x);
      map = map_in_place(dense, geometry);
      STD_TORCH_CHECK(map.has_value(), "a dense copy can be read in place");
      tensors_.push_back(std::move(dense));
    }
    maps_.push_back(*map);
  }

  // Adds a new dense map in the format of x, with the channels of the geometry.
  void write(const Tensor& x, const Geometry& geometry) {
    if (tensors_.empty()) tensors_.reserve(maps_.capacity() + 2);  // what operators return beside
    Tensor y = empty_map(x, is_channels_last(x), geometry.channels);
    std::optional<Map> map = map_in_place(y, geometry);
    if (!map) {  // x has another format than the first path: write that one, copy at the end
      Tensor other = empty_map(x, geometry.channels_last, geometry.channels);
      map = map_in_place(other, geometry);
      pending_.push_back({tensors_.size(), std::move(other)});
    }
    maps_.push_back(*map);
    tensors_.push_back(std::move(y));
  }

  void skip() { maps_.push_back(Map{}); }

  // The tensors written, in order.
  std::vector<Tensor> finish() {
    for (const auto& [at, from] : pending_) copy(tensors_[at], from);
    return std::move(tensors_);
  }

  const Map* data() const { return maps_.data(); }
  int64_t size() const { return int64_t(maps_.size()); }

 private:
  std::vector<Map> maps_;
  std::vector<Tensor> tensors_;
  std::vector<std::pair<size_t, Tensor>> pending_;
};

}  // namespace mpk
