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
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "problem.h"

namespace mpk {

// Of a function of torch's C interface, which keeps the reason to itself.
inline void check(AOTITorchError code) {
  if (code != AOTI_TORCH_SUCCESS) throw std::runtime_error("mpkernels: a call of torch failed");
}

// In the words of torch's allocator, by which tools know that a smaller batch may help.
[[noreturn]] inline void refuse_memory(int64_t bytes) {
  throw std::runtime_error(
      "mpkernels: DefaultCPUAllocator: can't allocate memory: you tried to allocate " +
      std::to_string(bytes) + " bytes.");
}

// Torch's numbers for the dtypes that maps and parameters may have.
inline int32_t code_of(Dtype dtype) {
  static const int32_t codes[] = {aoti_torch_dtype_float32(), aoti_torch_dtype_float64(),
                                  aoti_torch_dtype_bfloat16(), aoti_torch_dtype_float16()};
  return codes[int32_t(dtype)];
}

// Owns one handle. Sizes, strides and dtype are read once; they stay valid as long as the tensor.
class Tensor {
  struct Delete {
    void operator()(AtenTensorHandle handle) const { aoti_torch_delete_tensor_object(handle); }
  };

 public:
  using Handle = std::unique_ptr<AtenTensorOpaque, Delete>;

  Tensor() = default;
  explicit Tensor(AtenTensorHandle owned) : handle_(owned) {
    int32_t code = 0;
    check(aoti_torch_get_dim(handle_.get(), &dim_));
    check(aoti_torch_get_sizes(handle_.get(), &sizes_));
    check(aoti_torch_get_strides(handle_.get(), &strides_));
    check(aoti_torch_get_dtype(handle_.get(), &code));
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
    check(torch_get_const_data_ptr(handle_.get(), &data));
    return const_cast<void*>(data);
  }

  // Whether the elements lie anywhere: those of a tensor that is known to be zero may not.
  bool has_data() const {
    for (int64_t d = 0; d < dim_; d++)
      if (sizes_[d] == 0) return true;
    return data_ptr() != nullptr;
  }

  bool is_contiguous() const {
    bool contiguous = false;
    check(aoti_torch_is_contiguous(handle_.get(), &contiguous));
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
  Handle handle_;
  int64_t dim_ = 0;
  int64_t *sizes_ = nullptr, *strides_ = nullptr;
  Dtype dtype_ = Dtype::f32;
};

using OptionalTensor = std::optional<Tensor>;

inline torch::stable::Tensor to_stable(const Tensor& t) {
  AtenTensorHandle handle = nullptr;
  check(aoti_torch_new_tensor_handle(t.get(), &handle));
  return torch::stable::Tensor(handle);
}

inline void copy(const Tensor& to, const Tensor& from) {
  torch::stable::Tensor target = to_stable(to);
  torch::stable::copy_(target, to_stable(from));
}

inline Tensor empty_strided(const int64_t* sizes, const int64_t* strides, int64_t dims, Dtype dtype,
                            const Tensor& like) {
  int32_t device = 0, index = 0;
  check(aoti_torch_get_device_type(like.get(), &device));
  check(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle handle = nullptr;
  if (aoti_torch_empty_strided(dims, sizes, strides, code_of(dtype), device, index, &handle) ==
      AOTI_TORCH_SUCCESS)
    return Tensor(handle);
  int64_t elements = 1;
  for (int64_t d = 0; d < dims; d++) elements += (sizes[d] - 1) * strides[d];
  const int64_t bytes = elements * bytes_of(dtype);
  if (device == aoti_torch_device_type_cpu()) refuse_memory(bytes);
  throw std::runtime_error("mpkernels: torch did not allocate " + std::to_string(bytes) +
                           " bytes on the device");
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

// A new contiguous tensor with the elements of t, of up to 4 dimensions.
inline Tensor contiguous_copy(const Tensor& t, Dtype dtype) {
  Tensor converted = empty(t, t.sizes(), t.dim(), dtype);
  copy(converted, t);
  return converted;
}

// The elements of t, contiguous and of one dtype: where they lie, or in one copy.
class Values {
 public:
  Values(const Tensor& t, Dtype dtype) {
    if (t.dtype() != dtype || !t.is_contiguous() || !t.has_data())
      copy_ = contiguous_copy(t, dtype);
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

// Scratch memory that no tensor owns, 64-byte aligned and not initialised. Small buffers share a
// block that each thread keeps: asking the allocator for each would take as long as a small kernel.
class Buffer {
 public:
  Buffer(int64_t elements, Dtype dtype) {
    Block& block = of_this_thread();
    const size_t bytes = size_t(elements) * (dtype == Dtype::f64 ? 8 : 4);
    const size_t lines = (bytes + sizeof(Line) - 1) / sizeof(Line);
    if (lines > Block::size - block.used) {
      large_ = std::unique_ptr<Line[]>(new (std::nothrow) Line[lines]);
      if (!large_) refuse_memory(int64_t(bytes));
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
