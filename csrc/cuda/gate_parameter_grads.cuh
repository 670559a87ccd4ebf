// Gradients of the gates' parameters: sums over the batch in a fixed order, in one launch.
//
// dW1 = sum_b dH z^T, db1 = sum_b dH, dW2 = sum_b dA h^T, db2 = sum_b dA. A block owns a few rows
// and 32 columns of one path's matrix; its warps share the samples, and are then added in order.
// Reads pooled values once for every `weight_rows` hidden units, from L2 after the first time.
#pragma once

#include "cuda/plan.h"
#include "cuda/platform.cuh"

namespace mpk::cuda {

constexpr int weight_rows = 4;
constexpr int weight_cols = 32;  // a lane each
constexpr int weight_threads = 256;

// Row r of a product is sum_b left[b, r] right[b, :]; a path's values of sample b are b * m * size
// further on. Either result may be null.
struct SumOfProducts {
  const float *left, *right;  // [B, m, rows], [B, m, cols]
  int32_t rows, cols;
  float* weight;  // [m, rows, cols]
  float* bias;    // [m, rows]
};

struct GateWeightArguments {
  SumOfProducts layers[2];
  int64_t batch;
  int32_t inputs;
};

MPK_DEVICE int ceil_divide(int size, int by) { return (size + by - 1) / by; }

inline int64_t blocks_of(const SumOfProducts& layer) {
  return int64_t(ceil_div(layer.rows, weight_rows)) * ceil_div(layer.cols, weight_cols);
}
inline int64_t blocks_of(const GateWeightArguments& p) {
  return p.inputs * (blocks_of(p.layers[0]) + blocks_of(p.layers[1]));
}
inline int64_t weight_shared_bytes(int64_t threads) {
  return threads * (weight_rows + 1) * int64_t(sizeof(float));
}

inline GateWeightArguments arguments_of(const GateWeightGradients& p) {
  const auto floats = [](const void* at) { return static_cast<const float*>(at); };
  const auto to = [](void* at) { return static_cast<float*>(at); };
  const auto size = [](int64_t value) { return int32_t(value); };
  const SumOfProducts first{.left = floats(p.grad_hidden),
                            .right = floats(p.pooled),
                            .rows = size(p.hidden_units),
                            .cols = size(p.channels),
                            .weight = to(p.grad_w1),
                            .bias = to(p.grad_b1)};
  const SumOfProducts second{.left = floats(p.grad_logits),
                             .right = floats(p.hidden),
                             .rows = size(p.outputs),
                             .cols = size(p.hidden_units),
                             .weight = to(p.grad_w2),
                             .bias = to(p.grad_b2)};
  return {.layers = {first, second}, .batch = p.batch, .inputs = size(p.inputs)};
}

// Rows from `row` on and the column of each lane, of path i.
MPK_DEVICE void sum_products(const SumOfProducts& layer, int64_t batch, int inputs, int i, int row,
                             int first_col) {
  const int lane = thread() % 32, warp = thread() / 32, warps = threads() / 32;
  const int rows = layer.rows - row < weight_rows ? layer.rows - row : weight_rows;
  const int col = first_col + lane;
  float sums[weight_rows] = {}, totals[weight_rows] = {};
  for (int64_t first = 0; first < batch; first += int64_t(longest_chain) * warps) {
    const int64_t end = first + int64_t(longest_chain) * warps;
    float of_chain[weight_rows] = {}, total_of_chain[weight_rows] = {};
#pragma unroll 4
    for (int64_t b = first + warp; b < (end < batch ? end : batch); b += warps) {
      const int64_t path = b * inputs + i;
      const float right =
          col < layer.cols ? read_float(layer.right + path * layer.cols + col) : 0.f;
#pragma unroll
      for (int q = 0; q < weight_rows; q++) {
        const float left = q < rows ? read_float(layer.left + path * layer.rows + row + q) : 0.f;
        of_chain[q] += left * right;
        total_of_chain[q] += left;
      }
    }
#pragma unroll
    for (int q = 0; q < weight_rows; q++) {
      sums[q] += of_chain[q];
      totals[q] += total_of_chain[q];
    }
  }
  float* sum_of = shared_memory();  // [warps, rows, lanes]
  float* total_of = sum_of + threads() * weight_rows;
#pragma unroll
  for (int q = 0; q < weight_rows; q++) {
    sum_of[(warp * weight_rows + q) * 32 + lane] = sums[q];
    if (lane == 0) total_of[warp * weight_rows + q] = totals[q];
  }
  sync_block();
  for (int q = warp; q < rows; q += warps) {
    float sum = 0, total = 0;
    for (int w = 0; w < warps; w++) {
      sum += sum_of[(w * weight_rows + q) * 32 + lane];
      total += total_of[w * weight_rows + q];
    }
    const int64_t of = int64_t(i) * layer.rows + row + q;
    if (layer.weight && col < layer.cols) write_float(layer.weight + of * layer.cols + col, sum);
    if (layer.bias && first_col == 0 && lane == 0) write_float(layer.bias + of, total);
  }
}

// Tiles of one path's matrix.
MPK_DEVICE int tiles_of(const SumOfProducts& layer) {
  return ceil_divide(layer.rows, weight_rows) * ceil_divide(layer.cols, weight_cols);
}

MPK_DEVICE void sum_tile(const SumOfProducts& layer, int64_t batch, int inputs, int at) {
  const int tiles = tiles_of(layer), across = ceil_divide(layer.cols, weight_cols);
  const int i = at / tiles, tile = at % tiles;
  sum_products(layer, batch, inputs, i, tile / across * weight_rows, tile % across * weight_cols);
}

MPK_DEVICE void gate_weights_block(const GateWeightArguments& p) {
  const int at = int(block()), first = p.inputs * tiles_of(p.layers[0]);
  if (at < first)
    sum_tile(p.layers[0], p.batch, p.inputs, at);
  else
    sum_tile(p.layers[1], p.batch, p.inputs, at - first);
}

}  // namespace mpk::cuda
