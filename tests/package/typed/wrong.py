# pyright: strict
"""What type checkers refuse, in each line that says so and in no other."""

import torch

import mpkernels as mpk
from mpkernels import functional

x = torch.ones(8, 4)
connect = mpk.CrossConnect(4, 1, 2)

mpk.use_backend("eagr")  # wrong
mpk.use_backend("cuda")  # wrong
mpk.CrossConnect(4, 1, 2, gate_init="xavier")  # wrong
mpk.CrossConnect(4, 1, 2, kind="sigmoid")  # wrong
mpk.CrossConnect(4, 1, 2, bias=False)  # wrong
mpk.CrossConnect("4", 1, 2)  # wrong
mpk.CrossPredictConv2d(4, 4, 3, 1, 2, padding="full")  # wrong
mpk.CrossPredictLinear(4, 4, 1, 2, gate_init="uniform")  # wrong
mpk.CrossStitch(paths=2)  # wrong
mpk.route(connect, "median")  # wrong
mpk.route(connect, {"": "average"})  # wrong
mpk.record("connect")  # wrong
mpk.fuse(x)  # wrong
mpk.tune(torch.nn.Identity(), x)  # wrong
functional.gate(x, x, None, x, None, kind="relu")  # wrong

connect("x")  # wrong
connect(xs=None)  # wrong
connect(x, return_gates="yes")  # wrong
connect(x, gates=0.5)  # wrong
connect.forward([x], return_gate=True)  # wrong
connect(x).sum()  # wrong
connect(x, return_gates=True)[0].sum()  # wrong
mpk.explain(connect, x)["connect"]  # wrong
