// The bytes of a kernel and nothing else: reads every tensor of `reads` and writes every one of
// `writes` once, in one loop, with regular or with streaming stores. In two passes, each sample of
// `first` is read before that: what must be known of a whole sample before it can be written.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "cpu/vec.h"

namespace {

using torch::stable::Tensor;
using namespace mpk::cpu::MPK_NAMESPACE;

constexpr int64_t block = 512;  // floats of each output that are staged before they are streamed
constexpr int most = 16;        // outputs

void run(const std::vector<const float*>& reads, const std::vector<float*>& writes, int64_t begin,
         int64_t end, bool streaming) {
  alignas(64) float staged[most][block];
  for (int64_t at = begin; at < end; at += block) {
    const int64_t count = end - at < block ? end - at : block;
    for_lanes<float>(count, [&](auto lanes, int64_t q) {
      Vec<float> sum = lanes.load(reads[0] + at + q);
      for (size_t i = 1; i < reads.size(); i++) sum += lanes.load(reads[i] + at + q);
      for (size_t j = 0; j < writes.size(); j++)
        lanes.store(streaming ? staged[j] + q : writes[j] + at + q, sum);
    });
    for (size_t j = 0; streaming && j < writes.size(); j++)
      stream(writes[j] + at, staged[j], count * int64_t(sizeof(float)));
  }
  if (streaming) finish_streams();
}

template <class T>
std::vector<T*> floats(const std::vector<Tensor>& tensors) {
  std::vector<T*> found;
  for (const Tensor& t : tensors) found.push_back(static_cast<T*>(t.data_ptr()));
  return found;
}

// Whole lines of 16 floats; tensors of other dtypes are as many floats as their bytes fill.
int64_t lines_of(const Tensor& t) { return t.numel() * t.element_size() / 64; }

void stream_floor(std::vector<Tensor> reads, std::vector<Tensor> writes, bool streaming) {
  STD_TORCH_CHECK(!reads.empty() && writes.size() <= most, "some reads and up to 16 writes");
  const auto from = floats<const float>(reads);
  const auto to = floats<float>(writes);
  torch::stable::parallel_for(0, lines_of(reads[0]), 2048, [&](int64_t begin, int64_t end) {
    run(from, to, begin * 16, end * 16, streaming);
  });
}

float sum(const std::vector<const float*>& reads, int64_t begin, int64_t end) {
  Vec<float> sums = {};
  for (const float* from : reads)
    for_lanes<float>(end - begin,
                     [&](auto lanes, int64_t at) { sums += lanes.load(from + begin + at); });
  return sum_lanes(sums);
}

void two_pass_floor(std::vector<Tensor> first, std::vector<Tensor> reads,
                    std::vector<Tensor> writes) {
  STD_TORCH_CHECK(!reads.empty() && writes.size() <= most, "some reads and up to 16 writes");
  const auto before = floats<const float>(first), from = floats<const float>(reads);
  const auto to = floats<float>(writes);
  const int64_t batch = reads[0].size(0), size = lines_of(reads[0]) / batch * 16;
  torch::stable::parallel_for(0, batch, 1 + 32768 / size, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) {
      volatile float sink = sum(before, b * size, (b + 1) * size);
      (void)sink;
      run(from, to, b * size, (b + 1) * size, false);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_floor, library) {
  library.def("stream_floor(Tensor[] reads, Tensor[] writes, bool streaming) -> ()");
  library.def("two_pass_floor(Tensor[] first, Tensor[] reads, Tensor[] writes) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_floor, CPU, library) {
  library.impl("stream_floor", TORCH_BOX(&stream_floor));
  library.impl("two_pass_floor", TORCH_BOX(&two_pass_floor));
}
