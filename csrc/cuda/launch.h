// The launches of the kernels, for callers that know torch, and what they take: the launchers
// refuse the rest, which runs in Triton.
#pragma once

#include "problem.h"

namespace mpk::cuda {

constexpr int max_paths = 8;
constexpr int max_kept = 4;  // maps that a block keeps: inputs forward, gradients backward
constexpr int max_threads = 512;
constexpr int max_cluster = 16;

struct Blocks {
  int32_t cluster;  // so many share a sample
  int32_t threads;  // of each
  int64_t bytes;    // of shared memory, of each
};

// On a stream of the current device. `cluster` blocks share each sample.
void cross_connect(const CrossConnect&, int64_t cluster, void* stream);
void cross_connect_backward(const CrossConnectBackward&, int64_t cluster, void* stream);
void gate_weight_gradients(const GateWeightGradients&, void* stream);

// How many clusters of such blocks run at a time on the current device, 0 if it cannot run one.
int64_t active_clusters(Dtype, int64_t kept, const Blocks&);
int64_t active_clusters_backward(Dtype, int64_t kept, const Blocks&);

}  // namespace mpk::cuda
