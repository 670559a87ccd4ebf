// The gate MLP of all paths of one sample, in shared memory (Eq. 2 and 3).
//
// Every block of a cluster multiplies its own channels with W1, which is read once per sample; the
// small rest is done by every block for itself.
#pragma once

#include "cuda/sample.cuh"

namespace mpk::cuda {

// In global memory, float32, contiguous; biases may be null.
struct GateArguments {
  const float* w1;  // [m, K, C]
  const float* b1;  // [m, K]
  const float* w2;  // [m, n, K]
  const float* b2;  // [m, n]
  GateKind kind;
};

inline GateArguments arguments_of(const GateParameters& gate) {
  return {.w1 = static_cast<const float*>(gate.w1),
          .b1 = static_cast<const float*>(gate.b1),
          .w2 = static_cast<const float*>(gate.w2),
          .b2 = static_cast<const float*>(gate.b2),
          .kind = gate.kind};
}

// A view of the parameters that `load_parameters` copied.
struct Parameters {
  float *b1, *w2, *b2;
};

MPK_DEVICE Parameters parameters_of(const Plan& plan) {
  float* at = shared_memory() + plan.at.parameters;
  const int units = plan.inputs * plan.hidden;
  return {.b1 = at, .w2 = at + units, .b2 = at + units + units * plan.outputs};
}

MPK_DEVICE void load_values(const float* from, int size, float* to) {
  for (int at = thread(); at < size; at += threads()) to[at] = from ? read_float(from + at) : 0.f;
}

MPK_DEVICE void load_parameters(const Plan& plan, const GateArguments& gate) {
  const Parameters to = parameters_of(plan);
  const int units = plan.inputs * plan.hidden;
  load_values(gate.b1, units, to.b1);
  load_values(gate.w2, units * plan.outputs, to.w2);
  load_values(gate.b2, plan.inputs * plan.outputs, to.b2);
}

// products[i, k] = sum_c W1[i, k, c] z[i, c] over the block's channels; a warp sums one (i, k).
MPK_DEVICE void multiply_channels(const Plan& plan, const Part& part, const float* w1,
                                  const float* z, float* products) {
  const int lane = thread() % 32;
  for (int at = thread() / 32; at < plan.inputs * plan.hidden; at += threads() / 32) {
    const float* row = w1 + int64_t(at) * plan.channels + part.first_channel;
    const float* of_path = z + at / plan.hidden * plan.channels_per_block;
    float sum = 0;
    for (int c = lane; c < part.channels; c += 32) sum += read_float(row + c) * of_path[c];
    sum = sum_lanes(sum, 32);
    if (lane == 0) products[at] = sum;
  }
}

// h = relu(W1 z + b1), of the products of all blocks.
MPK_DEVICE void finish_hidden(const Plan& plan, const float* products, float* hidden) {
  const float* b1 = parameters_of(plan).b1;
  for (int at = thread(); at < plan.inputs * plan.hidden; at += threads()) {
    const float sum = sum_over_cluster(plan, products + at) + b1[at];
    hidden[at] = sum < 0 ? 0 : sum;  // keeps NaN
  }
}

// g = softmax(W2 h + b2); `gates` holds the logits between.
MPK_DEVICE void finish_gates(const Plan& plan, GateKind kind, const float* hidden, float* gates) {
  const Parameters of = parameters_of(plan);
  for (int at = thread(); at < plan.inputs * plan.outputs; at += threads()) {
    const float* h = hidden + at / plan.outputs * plan.hidden;
    float sum = of.b2[at];
    for (int k = 0; k < plan.hidden; k++) sum += of.w2[at * plan.hidden + k] * h[k];
    gates[at] = sum;
  }
  sync_block();
  for (int i = thread(); i < plan.inputs; i += threads()) {
    float* row = gates + i * plan.outputs;
    float largest = row[0], total = 0;
    for (int j = 1; j < plan.outputs; j++)
      if (!(row[j] <= largest)) largest = row[j];
    for (int j = 0; j < plan.outputs; j++) {
      row[j] = exponential(row[j] - largest);
      total += row[j];
    }
    for (int j = 0; j < plan.outputs; j++) row[j] /= total;
  }
}

// dA = g (d - <g, d>), in place of d.
MPK_DEVICE void differentiate_gates(const Plan& plan, GateKind kind, const float* gates, float* d) {
  for (int i = thread(); i < plan.inputs; i += threads()) {
    const float* g = gates + i * plan.outputs;
    float* row = d + i * plan.outputs;
    float mean = 0;
    for (int j = 0; j < plan.outputs; j++) mean += g[j] * row[j];
    for (int j = 0; j < plan.outputs; j++) row[j] = g[j] * (row[j] - mean);
  }
}

// dH = 1(h > 0) W2^T dA
MPK_DEVICE void differentiate_hidden(const Plan& plan, const float* hidden,
                                     const float* grad_logits, float* grad_hidden) {
  const float* w2 = parameters_of(plan).w2;
  for (int at = thread(); at < plan.inputs * plan.hidden; at += threads()) {
    const int i = at / plan.hidden, k = at % plan.hidden;
    float sum = 0;
    for (int j = 0; j < plan.outputs; j++)
      sum += w2[(i * plan.outputs + j) * plan.hidden + k] * grad_logits[i * plan.outputs + j];
    // As in PyTorch's relu, a NaN activation lets its gradient through.
    grad_hidden[at] = hidden[at] <= 0 ? 0 : sum;
  }
}

// dz / S of the block's channels, for dz = W1^T dH.
MPK_DEVICE void differentiate_pool(const Plan& plan, const Part& part, const float* w1,
                                   const float* grad_hidden, float* grad_z) {
  for (int at = thread(); at < plan.inputs * part.channels; at += threads()) {
    const int i = at / part.channels, c = at % part.channels;
    const float* column = w1 + int64_t(i) * plan.hidden * plan.channels + part.first_channel + c;
    float sum = 0;
#pragma unroll 4
    for (int k = 0; k < plan.hidden; k++)
      sum += read_float(column + int64_t(k) * plan.channels) * grad_hidden[i * plan.hidden + k];
    grad_z[i * plan.channels_per_block + c] = sum / float(plan.positions);
  }
}

}  // namespace mpk::cuda
