// Gates of any strides, gathered for one sample.
#pragma once

#include "cpu/vec.h"
#include "problem.h"

namespace mpk::cpu::MPK_NAMESPACE {

// The gates of sample b for n outputs as [m, n] or [m, n, C], or [n, m(, C)] where transposed.
// `output_of` tells which outputs; null: the first ones.
template <class A>
inline void gather(const Gates& gates, int64_t b, int64_t m, int64_t n, const int64_t* output_of,
                   int64_t channels, bool transposed, A* to) {
  const int64_t weights = gates.by_channel ? channels : 1;
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      const A* from = static_cast<const A*>(gates.data) + b * gates.batch_stride +
                      i * gates.input_stride + (output_of ? output_of[j] : j) * gates.output_stride;
      A* at = to + (transposed ? j * m + i : i * n + j) * weights;
      for (int64_t c = 0; c < weights; c++) at[c] = from[c * gates.channel_stride];
    }
}

}  // namespace mpk::cpu::MPK_NAMESPACE
