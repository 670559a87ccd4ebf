// Y_j = sum_i g_ij X_i on a GPU: one thread owns a few neighbouring elements of every map, so that
// each X_i element is loaded once and each Y_j stored once. Moves (m + n)|X| bytes.
//
// Plain C++ but for the built-in indices, so that a test can run the same body on a CPU.
#pragma once

#include <cstdint>

#include "cuda/limits.h"
#include "problem.h"

#ifndef MPK_DEVICE
#define MPK_DEVICE __device__ __forceinline__
#endif

namespace mpk::cuda {

struct MixArguments {
  Map xs[max_paths];
  Map ys[max_paths];
  Gates gates;
  int64_t batch, rows, cols;
  int inputs, outputs;
  bool channels_last;
};

// One element of every map: `at` counts batch * rows * cols elements in this order.
template <class T, class A>
MPK_DEVICE void mix_element(const MixArguments& p, int64_t at) {
  const int64_t col = at % p.cols, row = at / p.cols % p.rows, sample = at / (p.cols * p.rows);
  const A* gates = static_cast<const A*>(p.gates.data) + sample * p.gates.batch_stride;
  if (p.gates.by_channel) gates += (p.channels_last ? col : row) * p.gates.channel_stride;
  A x[max_paths];
#pragma unroll
  for (int i = 0; i < max_paths; i++)
    if (i < p.inputs)
      x[i] = A(static_cast<const T*>(
          p.xs[i].data)[sample * p.xs[i].batch_stride + row * p.xs[i].row_stride + col]);
#pragma unroll
  for (int j = 0; j < max_paths; j++) {
    if (j >= p.outputs) continue;
    A sum = 0;
#pragma unroll
    for (int i = 0; i < max_paths; i++)
      if (i < p.inputs) sum += gates[i * p.gates.input_stride + j * p.gates.output_stride] * x[i];
    static_cast<T*>(p.ys[j].data)[sample * p.ys[j].batch_stride + row * p.ys[j].row_stride + col] =
        T(sum);
  }
}

}  // namespace mpk::cuda
