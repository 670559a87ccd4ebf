"""The operators' schemas: `torch.ops.mpkernels`, whether or not a compiled library loads.

`wanted` flags the gradients to compute, inputs first, then gates and parameters, in the order of
the arguments; only those are returned.
"""

import torch

_PARAMETERS = "Tensor w1, Tensor? b1, Tensor w2, Tensor? b2"
_PREDICTIONS = "Tensor[] us, Tensor gates, Tensor? bias, Tensor? scale, Tensor? shift, bool relu"
_LAYER = f"Tensor weight, Tensor? bias, {_PARAMETERS}, Tensor? scale, Tensor? shift, bool relu"

SCHEMAS = (
    f"cross_connect(Tensor[] xs, {_PARAMETERS}) -> (Tensor[] ys, Tensor gates, Tensor pooled)",
    "cross_connect_backward(Tensor?[] grad_ys, Tensor? grad_gates, Tensor[] xs, Tensor gates, "
    f"Tensor pooled, {_PARAMETERS}, bool[] wanted) -> (Tensor[] grad_xs, Tensor[] grad_parameters)",
    f"gate(Tensor[] xs, {_PARAMETERS}) -> (Tensor gates, Tensor pooled)",
    f"gate_backward(Tensor grad_gates, Tensor gates, Tensor pooled, {_PARAMETERS}, bool[] wanted) "
    "-> (Tensor grad_pooled, Tensor[] grad_parameters)",
    "mix(Tensor[] xs, Tensor gates) -> Tensor[] ys",
    "mix_backward(Tensor?[] grad_ys, Tensor[] xs, Tensor gates, bool[] wanted) "
    "-> (Tensor[] grad_xs, Tensor[] grad_gates)",
    f"combine({_PREDICTIONS}) -> Tensor[] ys",
    f"combine_backward(Tensor?[] grad_ys, {_PREDICTIONS}, bool[] wanted) "
    "-> (Tensor[] grad_us, Tensor[] grad_parameters)",
    f"cross_predict(Tensor[] xs, {_LAYER}) -> (Tensor[] ys, Tensor gates, Tensor us)",
    "cross_predict_backward(Tensor?[] grad_ys, Tensor? grad_gates, Tensor[] xs, Tensor gates, "
    f"Tensor us, {_LAYER}, bool[] wanted) -> (Tensor[] grad_xs, Tensor[] grad_parameters)",
)
OPERATORS = tuple(schema.partition("(")[0] for schema in SCHEMAS)

library = torch.library.Library("mpkernels", "DEF")
for _schema in SCHEMAS:
    library.define(_schema)
# CUDA C++ has operators of its own names, called where it is chosen over Triton.
library.define("mix_cuda(Tensor[] xs, Tensor gates) -> Tensor[] ys")
# So many blocks share a sample and keep it on chip.
for _schema in SCHEMAS[:2]:
    library.define(_schema.replace("(", "_cuda(", 1).replace(") -> ", ", int cluster) -> ", 1))
# What runs in Python while a backend is forced: see csrc/cpu/switched.h, which calls these.
for _schema in SCHEMAS:
    library.define(_schema.replace("(", "_by_python(", 1).partition(" -> ")[0] + " -> str")
library.define("served_by(str name) -> str")
library.define("list_of_python(int at) -> Tensor[]")
library.define("tensor_of_python(int at) -> Tensor")
# Tells the compiled kernels whether a backend is forced anywhere.
library.define("forcing(bool on) -> bool")
# The instruction set of the CPU kernels; a name chooses it, "best" the widest, "" only asks.
library.define("instruction_set(str name) -> str")
