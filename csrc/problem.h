// Sizes, strides and pointers of one router: plain structs that the kernels read.
#pragma once

#include <cstdint>

namespace mpk {

enum class Dtype : int32_t { f32, f64, bf16, f16 };

inline int64_t bytes_of(Dtype dtype) {
  return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2;
}

// A feature map seen as rows of columns that lie side by side. NCHW: rows are channels, columns
// positions. channels_last: rows are positions, columns channels. Strides count elements.
struct Map {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t row_stride = 0;
};

// What all maps of one call share.
struct Geometry {
  Dtype dtype;
  bool channels_last;
  int64_t batch;
  int64_t channels;
  int64_t positions;

  int64_t rows() const { return channels_last ? positions : channels; }
  int64_t cols() const { return channels_last ? channels : positions; }
};

// A sample is cut into parts of whole rows, of about this many elements of each map: they depend
// on nothing but the geometry.
constexpr int64_t part_elements = 8192;
inline int64_t part_rows(const Geometry& geometry) {
  const int64_t rows = part_elements / (geometry.cols() > 0 ? geometry.cols() : 1);
  return rows > 1 ? rows : 1;
}
inline int64_t parts(const Geometry& geometry) {
  return (geometry.rows() + part_rows(geometry) - 1) / part_rows(geometry);
}

// combine sums over positions. In channels_last such a sum needs a place for every part and
// channel, so that its parts hold some rows at least.
inline int64_t combine_part_rows(const Geometry& geometry) {
  constexpr int64_t fewest = 16;
  const int64_t rows = part_rows(geometry);
  return geometry.channels_last && rows < fewest ? fewest : rows;
}
inline int64_t combine_parts(const Geometry& geometry) {
  return (geometry.rows() + combine_part_rows(geometry) - 1) / combine_part_rows(geometry);
}
// Parts that contribute to one channel's sum: all in channels_last, one in NCHW.
inline int64_t combine_sum_parts(const Geometry& geometry) {
  return geometry.channels_last ? combine_parts(geometry) : 1;
}

// Kinds of gates, as operators number them (mpkernels/eager/functional.py).
enum class GateKind : int64_t { softmax };
constexpr int64_t gate_kinds = 1;

// The gates' parameters, contiguous, in the accumulate dtype (double for f64 maps, else float).
struct GateParameters {
  GateKind kind;
  int64_t inputs;
  int64_t outputs;
  int64_t hidden;
  const void* w1;             // [m, K, C]; read by the backward only
  const void* w1_by_channel;  // [m, C, K]
  const void* b1;             // [m, K]
  const void* w2;             // [m, n, K]
  const void* b2;             // [m, n]; read by the forward only
};

// Y_j = sum_i g_ij X_i with G = gate(xs). Without ys it is the gate alone.
struct CrossConnect {
  Geometry geometry;
  GateParameters gate;
  const Map* xs;  // [m]
  const Map* ys;  // [n], or null
  void* gates;    // [B, m, n]
  void* pooled;   // [B, m, C]
};

struct CrossConnectBackward {
  Geometry geometry;
  GateParameters gate;
  const Map* xs;             // [m]
  const Map* grad_ys;        // the `present` outputs that have a gradient
  const int64_t* output_of;  // [present], which output each of them is
  int64_t present;
  const Map* grad_xs;      // [m]; data is null where no gradient is wanted
  const void* grad_gates;  // [B, m, n], or null
  const void* gates;       // [B, m, n]
  const void* pooled;      // [B, m, C]
  void* grad_pooled;       // [B, m, C], or null
  void* grad_logits;       // [B, m, n]
  void* grad_hidden;       // [B, m, K], before the ReLU
  void* hidden;            // [B, m, K], after the ReLU
  bool parameters_wanted;
};

// Sums over the batch, in the order of the batch: W1 and b1 of grad_hidden, W2 and b2 of
// grad_logits. A row is one (i, k) of W1 or one (i, j) of W2, m * (K + n) rows in all.
struct GateWeightGradients {
  Dtype dtype;
  int64_t batch, channels, inputs, outputs, hidden_units;
  const void* pooled;
  const void* hidden;
  const void* grad_logits;
  const void* grad_hidden;
  void* grad_w1;  // each may be null
  void* grad_b1;
  void* grad_w2;
  void* grad_b2;
};

// Gates of any strides, in the accumulate dtype.
struct Gates {
  const void* data;
  int64_t batch_stride, input_stride, output_stride, channel_stride;
  bool by_channel;  // [B, m, n, C]
};

struct Mix {
  Geometry geometry;
  int64_t inputs, outputs;
  Gates gates;
  const Map* xs;  // [m]
  const Map* ys;  // [n]
};

struct MixBackward {
  Geometry geometry;
  int64_t inputs, outputs;
  Gates gates;
  const Map* xs;             // [m]; read only for grad_gates
  const Map* grad_ys;        // the `present` outputs that have a gradient
  const int64_t* output_of;  // [present], which output each of them is
  int64_t present;
  const Map* grad_xs;  // [m]; data is null where no gradient is wanted
  void* grad_gates;    // contiguous [B, m, n] or [B, m, n, C], or null
};

// What combine weights. Output j of path i is U_ij, the channels [j C', (j + 1) C') of U_i.
// Parameters are contiguous and in the accumulate dtype.
struct Predictions {
  Geometry geometry;  // of an output
  int64_t inputs, outputs;
  Gates gates;
  const void* bias;   // [m, n C']
  const void* scale;  // [n, C']
  const void* shift;  // [n, C']
  bool relu;
  const Map* us;  // [m]
};

// Y_j = relu(scale_j T_j + shift_j) with T_j = sum_i g_ij (U_ij + b_ij).
struct Combine {
  Predictions predictions;
  const Map* ys;  // [n]
};

// D_j is dY_j where the ReLU is on, else 0.
struct CombineBackward {
  Predictions predictions;
  const Map* grad_ys;  // [n]; data is null where an output has no gradient
  const Map* grad_us;  // [m]; data is null where no gradient is wanted
  void* dots;          // [B, parts, m, n]: <scale_j D_j, U_ij + b_ij> of each part
  void* sums;          // [B, sum parts, n, C']: D_j summed over positions; or null
  void* products;      // the same of D_j T_j; or null
};

// U_i = W_i X_i for vectors, all of one dtype, f32 or f64.
struct Predict {
  Geometry geometry;  // of X_i
  int64_t inputs, rows;
  const Map* xs;       // [m]
  const void* weight;  // [m, rows, C]
  void* us;            // [m, B, rows]
};

struct PredictBackward {
  Geometry geometry;
  int64_t inputs, rows;
  const Map* xs;            // [m]; read only for grad_weight
  const void* weight;       // [m, rows, C]
  const void* grad_us;      // [m, B, rows]
  const void* grad_pooled;  // [B, m, C]: what the gates add to dX_i
  const Map* grad_xs;       // [m]; data is null where no gradient is wanted
  void* grad_weight;        // [m, rows, C], or null
};

// Sums over the parts of a sample, then over the batch, each in its order.
struct CombineParameterGradients {
  Predictions predictions;
  const Map* grad_ys;  // [n]; data is null where an output has no gradient
  const void* dots;
  const void* sums;
  const void* products;
  void* grad_gates;  // [B, m, n]; each may be null
  void* grad_bias;   // [m, n C']
  void* grad_scale;  // [n, C']
  void* grad_shift;  // [n, C']
};

}  // namespace mpk
