// The bytes of a kernel and nothing else: reads every tensor of `reads` and writes every one of
// `writes` once, in one loop, with regular or with streaming stores.
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

void stream_floor(std::vector<Tensor> reads, std::vector<Tensor> writes, bool streaming) {
  STD_TORCH_CHECK(!reads.empty() && writes.size() <= most, "some reads and up to 16 writes");
  // Whole lines of 16 floats; tensors of other dtypes are as many floats as their bytes fill.
  const int64_t lines = reads[0].numel() * reads[0].element_size() / 64;
  std::vector<const float*> from;
  std::vector<float*> to;
  for (const Tensor& t : reads) from.push_back(static_cast<const float*>(t.data_ptr()));
  for (const Tensor& t : writes) to.push_back(static_cast<float*>(t.data_ptr()));
  torch::stable::parallel_for(0, lines, 2048, [&](int64_t begin, int64_t end) {
    run(from, to, begin * 16, end * 16, streaming);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels_floor, library) {
  library.def("stream_floor(Tensor[] reads, Tensor[] writes, bool streaming) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(mpkernels_floor, CPU, library) {
  library.impl("stream_floor", TORCH_BOX(&stream_floor));
}
