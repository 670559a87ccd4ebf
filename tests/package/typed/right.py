# pyright: strict
"""What users write: type checkers find nothing to say, and each value is what they think."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import mpkernels as mpk
from mpkernels import eager, functional
from mpkernels.explain import Explanation, Explanations
from mpkernels.record import Recorded

Maps = tuple[Tensor, ...]
xs = [torch.ones(8, 4, 6, 6), torch.ones(8, 4, 6, 6)]
vectors = [torch.ones(8, 4), torch.ones(8, 4)]


class Network(nn.Module):
    def __init__(self, gate_init: Literal["linear", "he"] = "he") -> None:
        super().__init__()
        self.connect = mpk.CrossConnect(4, inputs=1, outputs=2, gate_bias=False, kind="softmax")
        self.predict = mpk.CrossPredictConv2d(
            4, 5, (3, 3), inputs=2, outputs=3, padding="same", batch_norm=True, gate_init=gate_init
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps, gates = self.connect(x, return_gates=True)
        return sum(self.predict([one.relu() for one in maps]), torch.zeros(())), gates


connect = mpk.CrossConnect(4, 2, 3)
assert_type(connect(xs), Maps)
assert_type(connect(tuple(xs)), Maps)
assert_type(connect(xs, return_gates=False), Maps)
assert_type(connect(xs, return_gates=True), tuple[Maps, Tensor])
assert_type(connect(xs, True, torch.ones(2, 3)), tuple[Maps, Tensor])
assert_type(connect(xs, gates=torch.ones(8, 2, 3)), Maps)
assert_type(connect.forward(xs), Maps)
assert_type(connect.forward(xs, return_gates=True), tuple[Maps, Tensor])
for wanted in (False, True):
    assert_type(connect(xs, return_gates=wanted), Maps | tuple[Maps, Tensor])

predict = mpk.CrossPredictConv2d(4, 5, 3, 2, 3, padding=1)
dense = mpk.CrossPredictLinear(4, 5, inputs=2, outputs=3, bias=False, gate_bias=False)
stitch = mpk.CrossStitch(inputs=2, outputs=2, channels=4)
assert_type(predict(xs), Maps)
assert_type(predict(xs, return_gates=True), tuple[Maps, Tensor])
assert_type(dense(vectors), Maps)
assert_type(dense(vectors, return_gates=True), tuple[Maps, Tensor])
assert_type(stitch(xs), Maps)
assert_type(stitch(xs, return_gates=True), tuple[Maps, Tensor])
assert_type(eager.CrossConnect(4, 2, 3)(xs), Maps)
assert_type(eager.CrossPredictConv2d(4, 5, 3, 2, 3)(xs, return_gates=True), tuple[Maps, Tensor])
assert_type(eager.CrossPredictLinear(4, 5, 2, 3)(vectors, return_gates=True), tuple[Maps, Tensor])
assert_type(eager.CrossStitch(2)(xs, return_gates=True), tuple[Maps, Tensor])
assert_type(connect.channels, int)
assert_type(connect.b1, nn.Parameter | None)
assert_type(predict.kernel_size, tuple[int, int])
assert_type(predict.weight, nn.Parameter)
assert_type(stitch.outputs, int)

w1, w2 = torch.ones(2, 16, 4), torch.ones(2, 3, 16)
assert_type(functional.cross_connect(xs, w1, None, w2, None), tuple[Maps, Tensor])
gates = functional.gate(xs, w1, None, w2, None, kind="softmax")
assert_type(gates, Tensor)
assert_type(functional.mix(xs, gates), Maps)
assert_type(functional.combine([torch.ones(8, 6)] * 2, gates, relu=False), Maps)
assert_type(
    functional.cross_predict(vectors, torch.ones(2, 6, 4), None, w1, None, w2, None),
    tuple[Maps, Tensor],
)

network = mpk.fuse(mpk.unfuse(Network()))
assert_type(network, Network)
with mpk.record(network) as recorded, mpk.use_backend("eager"):
    network(xs[0])
assert_type(recorded, dict[str, Recorded])
assert_type(recorded["connect"].gates, Tensor)
with mpk.route(network, {"connect": torch.ones(1, 2), "predict": "argmax"}):
    network(xs[0])
with mpk.route(network, nn.Identity()), mpk.route(network, lambda gates: gates.mean(0)):
    network(xs[0])
explanation = mpk.explain(connect, xs, device="cuda")
assert_type(explanation, Explanation)
assert_type(explanation.kernels[0].backend, Literal["eager", "native", "triton"])
assert_type(mpk.explain(network, xs[0]), Explanation | Explanations)
