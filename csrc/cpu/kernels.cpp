// The table of one instruction set.
#include "cpu/kernels.h"

#include "cpu/entry.h"

#define MPK_STRING_(name) #name
#define MPK_STRING(name) MPK_STRING_(name)

namespace mpk::cpu::MPK_NAMESPACE {

extern const Kernels table;
const Kernels table = {
    MPK_STRING(MPK_NAMESPACE),
    cross_connect,
    cross_connect_pool,
    cross_connect_gates,
    cross_connect_mix,
    cross_connect_backward,
    cross_connect_dots,
    cross_connect_differentiate,
    cross_connect_grads,
    gate_weight_gradients,
    mix,
    mix_backward,
    combine,
    combine_backward,
    combine_parameter_gradients,
    predict,
    predict_grads,
    predict_weight_gradients,
};

}  // namespace mpk::cpu::MPK_NAMESPACE
