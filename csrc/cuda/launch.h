// The launches of the kernels, for callers that know torch, and what they take: the launchers
// refuse the rest, which runs in Triton.
#pragma once

#include "problem.h"

namespace mpk::cuda {

constexpr int max_paths = 8;
constexpr int max_kept = 4;  // maps that a block keeps: inputs forward, gradients backward
constexpr int max_threads = 512;
constexpr int max_cluster = 16;  // 8 on every card of sm_90 and newer, 16 where the card allows it

// On a stream of the current device. `cluster` blocks share each sample.
void cross_connect(const CrossConnect&, int64_t cluster, void* stream);
void cross_connect_backward(const CrossConnectBackward&, int64_t cluster, void* stream);
void gate_weight_gradients(const GateWeightGradients&, void* stream);

}  // namespace mpk::cuda
