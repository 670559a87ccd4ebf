"""An operator from one declaration: its definition, its fake kernel, its check, what it keeps.

The kernel that runs the definition, the gradient, the gradient of the gradient and the way through
autograd follow. The schema (ops/schemas.def) tells which arguments are tensors.

Called from Python, an operator passes the dispatcher twice: to its Autograd kernel, which applies
an autograd.Function, whose forward calls the operator again. Each pass costs more than a small
kernel. Where nobody has to see the call, ops/nodes.py spares all of it and ops/short_way.py both
passes; without them every call takes the way of this file.

An autograd.Function serves one reverse mode, within and around any vmap (ops/batching.py). Whatever
else derives the call (forward mode, a derivative of a derivative and their compositions) meets the
definition, whose every step it can follow.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mpkernels.eager.functional import follow_autocast, without_autocast
from mpkernels.ops import batching, below, nodes
from mpkernels.ops.check import check_tensors, paths_of
from mpkernels.ops.differentiate import pull_back
from mpkernels.ops.distributed import is_distributed, run_locally
from mpkernels.ops.flags import flags_of, mask_of
from mpkernels.ops.form import Form, count, nested, placed, read
from mpkernels.ops.internals import (
    after_autograd,
    any_requires_grad,
    any_tangent,
    autograd_can_be_passed,
    below_autograd,
    gradients_are_batched,
    is_tracing,
    of_no_function_mode,
    tensors_of,
    transforms_are_active,
    unwrap_dead_wrappers,
)
from mpkernels.ops.layout import empty_map, in_format_of
from mpkernels.ops.schema import SCHEMAS, library
from mpkernels.ops.switch import Choice, active_backend, thread_runs

if importlib.util.find_spec("mpkernels.ops.short_way"):
    from mpkernels.ops.short_way import kernel_checks, nothing_above, recorder_of
else:

    def nothing_above(tensors: Sequence[Any]) -> bool:
        """Whether nobody has to see a call with these tensors: without the short way, unknown."""
        return False

    kernel_checks = nothing_above

    def recorder_of(operator: Any) -> Callable[..., Any]:
        """What nobody calls then."""
        return operator._apply  # type: ignore[no-any-return]


OPERATORS: dict[str, Operator] = {}


class Operator:
    """An operator as Python calls it, and what PyTorch has to know about it.

    Args:
        name: in the namespace `mpkernels`, as in ops/schemas.def.
        definition: (*arguments) -> outputs, in plain PyTorch.
        fake: (*arguments) -> outputs without values.
        check: raises unless (name, *arguments) fit.
    """

    def __init__(
        self,
        name: str,
        definition: Callable[..., list[Tensor]],
        fake: Callable[..., list[Tensor]],
        check: Callable[..., None] = lambda *arguments: None,
    ) -> None:
        self.name, self._definition, self._check = name, definition, check
        self._names, self.flatten, self._form_of = read(SCHEMAS[name])
        self._first = self._names[0]
        self.overload = operator = getattr(torch.ops.mpkernels, name).default
        self.call = of_no_function_mode(operator)
        self._apply = _function_of(self).apply
        self._record = recorder_of(self)
        self._in_cpp = nodes.caller_of(name)
        OPERATORS[name] = self

        def kernel(keyset: Any, *arguments: Any) -> Any:
            if not autograd_can_be_passed or transforms_are_active() or any_tangent(arguments):
                return self.run_eager(*arguments)
            # Flat: PyTorch's look into a list ends at a None.
            if torch.is_grad_enabled() and any_requires_grad(*self.flatten(*arguments)):
                return self._differentiable(*arguments)
            with below_autograd():
                return operator.redispatch(keyset & after_autograd, *arguments)

        library.impl(name, kernel, "Autograd", with_keyset=True)
        for key in ("FuncTorchBatched", "Batched"):  # of torch.func, and of torch.autograd
            library.impl(name, self.run_eager, key)
        torch.library.register_fake(f"mpkernels::{name}", fake, lib=library)

    def __call__(self, xs: Tensor | Sequence[Tensor], *rest: Any) -> list[Tensor]:
        """Runs it with a user's arguments; the errors are always those of the check.

        The compiled CPU kernels check in less time than Python needs to look at one shape.
        """
        paths = paths_of(self.name, self._first, xs)
        if not torch.compiler.is_dynamo_compiling():
            try:
                if (outputs := self._in_cpp(paths, *rest)) is not None:
                    return outputs
                flat = self.flatten(paths, *rest)
                if kernel_checks(flat):
                    return self.direct(flat, paths, *rest)
            except RuntimeError as error:
                check_tensors(self.name, self._first, paths)
                self.check(paths, *rest)
                below.raise_as_it_was(error)
                raise
        check_tensors(self.name, self._first, paths)
        paths = follow_autocast(paths)
        self._check(self.name, paths, *rest)
        return self.run(paths, *rest)

    def check(self, *arguments: Any) -> None:
        """Raises unless the arguments fit."""
        self._check(self.name, *arguments)

    def run(self, *arguments: Any) -> list[Tensor]:
        """Runs it so that whatever may want to see the call does."""
        if torch.compiler.is_compiling():
            return self.overload(*arguments)  # type: ignore[no-any-return]
        flat = self.flatten(*arguments)
        if is_distributed(flat):
            form = self._form_of(*arguments)

            def local(flat: list[Any]) -> list[Tensor]:
                return self.run(*nested(flat, form))

            return run_locally(self.name, self._names_of(form), flat, local)
        if nothing_above(flat):
            return self.direct(flat, *arguments)
        if transforms_are_active():
            # What the autograd.Function serves must meet it before the dispatcher.
            names = self._names_of(self._form_of(*arguments))
            parameters = [t for t, name in zip(flat, names) if name not in batching.OF_SAMPLES]
            served = batching.why_not_served(parameters) is None
            return (self._differentiable if served else self.run_eager)(*arguments)
        # TorchScript cannot record a list of optional tensors.
        if gradients_are_batched() or is_tracing():
            return self.run_eager(*arguments)
        return self.overload(*arguments)  # type: ignore[no-any-return]

    def _names_of(self, form: Form) -> list[str]:
        """The names of the arguments to which the flat tensors belong."""
        return [name for name, part in zip(self._names, form) for _ in range(count(part))]

    def direct(self, flat: list[Any], *arguments: Any) -> list[Tensor]:
        """Runs it, with arguments of these tensors, where nobody has to see the call."""
        try:
            if torch.is_grad_enabled() and any_requires_grad(*flat):
                return list(self._record(arguments, *unwrap_dead_wrappers(tuple(flat))))
            with below_autograd():
                return self.call(*arguments)  # type: ignore[no-any-return]
        except RuntimeError as error:
            below.raise_as_it_was(error)
            raise

    def _differentiable(self, *arguments: Any) -> list[Tensor]:
        return list(self._apply(arguments, *self.flatten(*arguments)))

    def run_eager(self, *arguments: Any) -> list[Tensor]:
        """Runs it by its definition."""
        self._check(self.name, *arguments)
        with without_autocast(tensors_of(arguments)[0].device.type):
            return self._definition(*arguments)

    # What the autograd.Function does forward and backward.

    def compute(self, arguments: Sequence[Any], *flat: Any) -> tuple[Tensor, ...]:
        """The outputs; autograd sees the tensors among the arguments, which `flat` are."""
        with below_autograd():
            return tuple(self.call(*arguments))

    def remember(
        self, ctx: Any, arguments: Sequence[Any], flat: Sequence[Any], outputs: Sequence[Tensor]
    ) -> None:
        """Saves what the gradients read, and the backend unless it is "auto"."""
        ctx.form = self._form_of(*arguments)
        self.keep(ctx, flat, outputs)
        ctx.set_materialize_grads(False)
        if (backend := active_backend()) != "auto":
            ctx.backend = backend

    def gradients(self, ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        """Those of `compute`'s arguments, in whichever thread: by the forward's backend."""
        backend: Choice = getattr(ctx, "backend", "auto")
        if backend == active_backend():
            return (None, *self.derive(ctx, grads))
        with thread_runs(backend):
            return (None, *self.derive(ctx, grads))

    def map_members(
        self, info: Any, in_dims: Sequence[Any], arguments: Sequence[Any], *flat: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """What `compute` returns for all members of vmap, in dimension 0."""
        form, dims, members = self._form_of(*arguments), in_dims[1:], info.batch_size
        names = self._names_of(form)
        wanted = form[-1][0] if self._names[-1] == "wanted" else None
        way = batching.way(names, flat, dims, members, wanted)

        def call(flat: list[Any]) -> list[Tensor]:
            return self.run(*nested(flat, form))

        def definition(flat: list[Any]) -> list[Tensor]:
            return self.run_eager(*nested(flat, form))

        if way == batching.FOLD:
            outputs = batching.fold(self.name, call, names, flat, dims, members)
        elif way == batching.LOOP:
            outputs = batching.loop(call, flat, dims, members)
        else:
            outputs = batching.mapped(definition, flat, dims)
        return tuple(outputs), (0,) * len(outputs)

    def keep(self, ctx: Any, flat: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        """Saves the tensors that `derive` reads."""
        ctx.save_for_backward(*flat)

    def derive(self, ctx: Any, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Gradients of the flat tensors: through the definition."""

        def definition(flat: list[Any]) -> list[Tensor]:
            return self.run_eager(*nested(flat, ctx.form))

        return pull_back(definition, ctx.saved_tensors, grads)


class Routed(Operator):
    """An operator whose gradient is an operator too, of `gradient`.

    The first outputs are new maps. Of the others `backward` keeps all; the last `hidden` ones have
    no gradient.

    Args:
        gradient: (grads, *arguments, flags of the tensors) -> gradients of the wanted ones.
        kept: how many outputs follow the maps.
        hidden: how many of them users cannot differentiate.
    """

    def __init__(
        self,
        name: str,
        definition: Callable[..., list[Tensor]],
        gradient: Callable[..., list[Tensor]],
        fake: Callable[..., list[Tensor]],
        check: Callable[..., None],
        kept: int = 0,
        hidden: int = 0,
    ) -> None:
        super().__init__(name, definition, fake, check)
        self.kept, self.hidden, self._gradient, self._fake = kept, hidden, gradient, fake
        self._in_cpp = nodes.caller_of(name, routed=True, kept=kept, hidden=hidden)
        self.backward = Operator(
            f"{name}_backward", self._gradients, self._fake_gradients, self._check_gradients
        )

    def run_eager(self, *arguments: Any) -> list[Tensor]:
        """Runs it by its definition; new maps are in the format of the first path."""
        outputs = super().run_eager(*arguments)
        maps = len(outputs) - self.kept
        return [in_format_of(y, arguments[0][0]) for y in outputs[:maps]] + outputs[maps:]

    def _gradients(self, grads: Any, kept: Any, *rest: Any) -> list[Tensor]:
        *arguments, wanted = rest
        flat = self.flatten(*arguments)
        flags = flags_of(wanted, len(flat))
        paths, results = len(arguments[0]), iter(self._gradient(grads, *arguments, flags))
        return [
            in_format_of(next(results), t) if q < paths else next(results).contiguous()
            for q, t in enumerate(flat)
            if flags[q] and t is not None
        ]

    def _check_gradients(self, name: str, grads: Any, kept: Any, *rest: Any) -> None:
        *arguments, _ = rest
        self._check(name, *arguments)
        outputs = [tuple(y.shape) for y in self._fake(*arguments)]
        expected = outputs[: len(outputs) - self.hidden], outputs[len(outputs) - self.kept :]
        for argument, tensors, shapes in zip(("grads", "kept"), (grads, kept), expected):
            found = [None if t is None else tuple(t.shape) for t in tensors]
            fit = len(found) == len(shapes) and all(f in (None, s) for f, s in zip(found, shapes))
            if not fit:
                raise ValueError(f"{name}: {argument} must be of shapes {shapes}, got {found}")

    def _fake_gradients(self, grads: Any, kept: Any, *rest: Any) -> list[Tensor]:
        *arguments, wanted = rest
        flat = self.flatten(*arguments)
        paths, flags = len(arguments[0]), flags_of(wanted, len(flat))
        return [
            empty_map(t) if q < paths else t.new_empty(t.shape)
            for q, t in enumerate(flat)
            if flags[q] and t is not None
        ]

    def keep(self, ctx: Any, flat: Sequence[Any], outputs: Sequence[Tensor]) -> None:
        """Saves the outputs that are kept, and the arguments."""
        count = len(outputs)
        ctx.save_for_backward(*outputs[count - self.kept :], *flat)
        if self.hidden:
            ctx.mark_non_differentiable(*outputs[count - self.hidden :])

    def derive(self, ctx: Any, grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
        """Gradients of the flat tensors: by the operator that computes them."""
        saved, wanted = ctx.saved_tensors, mask_of(ctx.needs_input_grad[1:])
        kept, flat = saved[: self.kept], saved[self.kept :]
        outer = grads[: len(grads) - self.hidden]
        results = self.backward.run(outer, kept, *nested(flat, ctx.form), wanted)
        return placed(results, wanted, flat)


def _function_of(operator: Operator) -> Any:
    """The autograd.Function of the operator: (arguments, *flat) -> outputs.

    torch.library.register_autograd would do the same at several times the cost for lists.
    """

    # Functions, for compiled autograd traces no methods.
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return operator.compute(*inputs)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        arguments, *flat = inputs
        operator.remember(ctx, arguments, flat, output)

    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        return operator.gradients(ctx, *grads)

    def vmap(*members: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        return operator.map_members(*members)

    functions = forward, setup_context, backward, vmap
    static: dict[str, Any] = {function.__name__: staticmethod(function) for function in functions}  # type: ignore[arg-type]
    return type(operator.name, (torch.autograd.Function,), static)
