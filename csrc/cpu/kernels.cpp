// The table of one instruction set.
#include "cpu/kernels.h"

#define MPK_STRING_(name) #name
#define MPK_STRING(name) MPK_STRING_(name)
#define MPK_DECLARATION(kernel, ...) void kernel(__VA_ARGS__);
#define MPK_ENTRY(kernel, ...) .kernel = kernel,

namespace mpk::cpu::MPK_NAMESPACE {

MPK_KERNELS(MPK_DECLARATION)

extern const Kernels table;
const Kernels table = {.name = MPK_STRING(MPK_NAMESPACE), MPK_KERNELS(MPK_ENTRY)};

}  // namespace mpk::cpu::MPK_NAMESPACE
