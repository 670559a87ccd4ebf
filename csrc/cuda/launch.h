// Launches of the kernels, for callers that know torch.
#pragma once

#include "problem.h"

namespace mpk::cuda {

// On a stream of the current device. `cluster` blocks share each sample.
void cross_connect(const CrossConnect&, int64_t cluster, void* stream);
void cross_connect_backward(const CrossConnectBackward&, int64_t cluster, void* stream);
void gate_weight_gradients(const GateWeightGradients&, void* stream);

}  // namespace mpk::cuda
