// A tensor over torch's C shim, and the few operations on it that kernels' callers need.
//
// torch::stable::Tensor shares its handle, asks torch for every size and allocates through the
// dispatcher; for small vectors that takes several times as long as the kernel.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <utility>

#include "problem.h"

namespace mpk {

// Torch's numbers for the dtypes that maps and parameters may have.
inline int32_t code_of(Dtype dtype) {
  static const int32_t codes[] = {aoti_torch_dtype_float32(), aoti_torch_dtype_float64(),
                                  aoti_torch_dtype_bfloat16(), aoti_torch_dtype_float16()};
  return codes[int32_t(dtype)];
}

// Owns one handle. Sizes, strides and dtype are read once; they stay valid as long as the tensor.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(AtenTensorHandle owned) : handle_(owned) {
    int32_t code = 0;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(handle_.get(), &dim_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(handle_.get(), &sizes_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(handle_.get(), &strides_));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(handle_.get(), &code));
    for (const Dtype dtype : {Dtype::f32, Dtype::f64, Dtype::bf16, Dtype::f16})
      if (code == code_of(dtype)) {
        dtype_ = dtype;
        return;
      }
    STD_TORCH_CHECK(false, "tensors must be float32, float64, bfloat16 or float16");
  }

  int64_t dim() const { return dim_; }
  int64_t size(int64_t d) const { return sizes_[d]; }
  int64_t stride(int64_t d) const { return strides_[d]; }
  const int64_t* sizes() const { return sizes_; }
  Dtype dtype() const { return dtype_; }
  AtenTensorHandle get() const { return handle_.get(); }
  AtenTensorHandle release() { return handle_.release(); }

  // The const pointer of torch: the other one would copy a lazily copied tensor first.
  void* data_ptr() const {
    const void* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_const_data_ptr(handle_.get(), &data));
    return const_cast<void*>(data);
  }

  bool is_contiguous() const {
    bool contiguous = false;
    TORCH_ERROR_CODE_CHECK(aoti_torch_is_contiguous(handle_.get(), &contiguous));
    return contiguous;
  }

  bool has_shape(std::initializer_list<int64_t> shape) const {
    return has_shape(shape.begin(), int64_t(shape.size()));
  }
  bool has_shape(const int64_t* sizes, int64_t dims) const {
    if (dims != dim_) return false;
    for (int64_t d = 0; d < dims; d++)
      if (sizes_[d] != sizes[d]) return false;
    return true;
  }

 private:
  struct Delete {
    void operator()(AtenTensorHandle handle) const { aoti_torch_delete_tensor_object(handle); }
  };
  std::unique_ptr<AtenTensorOpaque, Delete> handle_;
  int64_t dim_ = 0;
  int64_t *sizes_ = nullptr, *strides_ = nullptr;
  Dtype dtype_ = Dtype::f32;
};

using OptionalTensor = std::optional<Tensor>;

inline torch::stable::Tensor to_stable(const Tensor& t) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(t.get(), &handle));
  return torch::stable::Tensor(handle);
}

inline Tensor from_stable(const torch::stable::Tensor& t) {
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(t.get(), &handle));
  return Tensor(handle);
}

inline void copy(const Tensor& to, const Tensor& from) {
  torch::stable::Tensor target = to_stable(to);
  torch::stable::copy_(target, to_stable(from));
}

// t, contiguous and of the given dtype: a new tensor unless it is that already.
inline Tensor contiguous_copy(const Tensor& t, Dtype dtype) {
  using torch::headeronly::ScalarType;
  constexpr ScalarType types[] = {ScalarType::Float, ScalarType::Double, ScalarType::BFloat16,
                                  ScalarType::Half};
  return from_stable(
      torch::stable::contiguous(torch::stable::to(to_stable(t), types[int32_t(dtype)])));
}

inline Tensor empty_strided(const int64_t* sizes, const int64_t* strides, int64_t dims, Dtype dtype,
                            const Tensor& like) {
  int32_t device = 0, index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, code_of(dtype), device, index, &handle));
  return Tensor(handle);
}

// A new contiguous tensor on the device of `like`.
inline Tensor empty(const Tensor& like, const int64_t* sizes, int64_t dims, Dtype dtype) {
  constexpr int64_t most = 4;
  STD_TORCH_CHECK(dims <= most, "empty takes up to 4 sizes");
  int64_t strides[most], next = 1;
  for (int64_t d = dims - 1; d >= 0; d--) {
    strides[d] = next;
    next *= sizes[d] > 0 ? sizes[d] : 1;
  }
  return empty_strided(sizes, strides, dims, dtype, like);
}
inline Tensor empty(const Tensor& like, std::initializer_list<int64_t> sizes, Dtype dtype) {
  return empty(like, sizes.begin(), int64_t(sizes.size()), dtype);
}

// The elements of t, contiguous and of one dtype: where they lie, or in one copy.
class Values {
 public:
  Values(const Tensor& t, Dtype dtype) {
    if (t.dtype() != dtype || !t.is_contiguous()) copy_ = contiguous_copy(t, dtype);
    data_ = copy_ ? copy_->data_ptr() : t.data_ptr();
  }
  void* data_ptr() const { return data_; }

 private:
  OptionalTensor copy_;
  void* data_;
};

inline std::optional<Values> values_of(const OptionalTensor& t, Dtype dtype) {
  return t ? std::optional<Values>(std::in_place, *t, dtype) : std::nullopt;
}

// Memory that no tensor shows, 64-byte aligned and not initialised. Small buffers share a block
// that each thread keeps: asking the allocator for each would take as long as a small kernel.
class Buffer {
 public:
  Buffer(int64_t elements, Dtype dtype) {
    Block& block = of_this_thread();
    const size_t bytes = size_t(elements) * (dtype == Dtype::f64 ? 8 : 4);
    const size_t lines = (bytes + sizeof(Line) - 1) / sizeof(Line);
    if (lines > Block::size - block.used) {
      large_ = std::unique_ptr<Line[]>(new Line[lines]);
      data_ = large_.get();
      return;
    }
    if (!block.lines) block.lines = std::unique_ptr<Line[]>(new Line[Block::size]);
    data_ = block.lines.get() + block.used;
    block.used += lines;
    block.buffers++;
    block_ = &block;
  }
  Buffer(Buffer&& other) noexcept
      : large_(std::move(other.large_)),
        block_(std::exchange(other.block_, nullptr)),
        data_(other.data_) {}
  Buffer& operator=(Buffer&&) = delete;
  ~Buffer() {
    if (block_ && --block_->buffers == 0) block_->used = 0;
  }
  void* data_ptr() const { return data_; }

 private:
  struct alignas(64) Line {
    char bytes[64];
  };
  struct Block {
    static constexpr size_t size = 1024;
    std::unique_ptr<Line[]> lines;
    size_t used = 0;
    int64_t buffers = 0;
  };
  static Block& of_this_thread() {
    static thread_local Block block;
    return block;
  }

  std::unique_ptr<Line[]> large_;
  Block* block_ = nullptr;
  void* data_ = nullptr;
};

}  // namespace mpk
