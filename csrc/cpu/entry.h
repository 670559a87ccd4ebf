// The kernels of one instruction set, as its table names them.
#pragma once

#include "problem.h"

namespace mpk::cpu::MPK_NAMESPACE {

void cross_connect(const CrossConnect&, int64_t begin, int64_t end, void* scratch);
void cross_connect_pool(const CrossConnect&, int64_t sample, int64_t begin, int64_t end);
void cross_connect_gates(const CrossConnect&, int64_t sample, void* scratch);
void cross_connect_mix(const CrossConnect&, int64_t sample, int64_t begin, int64_t end);
void cross_connect_backward(const CrossConnectBackward&, int64_t begin, int64_t end, void* scratch);
void cross_connect_dots(const CrossConnectBackward&, int64_t sample, int64_t begin, int64_t end,
                        void* partial);
void cross_connect_differentiate(const CrossConnectBackward&, int64_t sample, void* partial,
                                 void* scratch);
void cross_connect_grads(const CrossConnectBackward&, int64_t sample, int64_t begin, int64_t end,
                         void* scratch);
void gate_weight_gradients(const GateWeightGradients&, int64_t begin, int64_t end);
void mix(const Mix&, int64_t begin, int64_t end, void* scratch);
void mix_backward(const MixBackward&, int64_t begin, int64_t end, void* scratch);
void combine(const Combine&, int64_t begin, int64_t end, void* scratch);
void combine_backward(const CombineBackward&, int64_t begin, int64_t end, void* scratch);
void combine_parameter_gradients(const CombineParameterGradients&, int64_t begin, int64_t end);
void predict(const Predict&, int64_t begin, int64_t end);
void predict_grads(const PredictBackward&, int64_t begin, int64_t end);
void predict_weight_gradients(const PredictBackward&, int64_t begin, int64_t end);

}  // namespace mpk::cpu::MPK_NAMESPACE
