"""Paths on streams of their own: what each waits for, and when memory may be used again."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models.networks import streams
from models.networks.layers import Parallel


class Stream:
    """Knows whatever has ended before its next kernel begins."""

    current: "Stream"

    def __init__(self, device=None):
        self.ended, self.device = set(), device

    def wait_stream(self, other):
        self.ended |= other.ended


@pytest.fixture
def main(monkeypatch):
    """The current stream of a card that is not there."""
    Stream.current = Stream()

    @contextmanager
    def switched(stream):
        before, Stream.current = Stream.current, stream
        yield
        Stream.current = before

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", switched)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Stream.current)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    streams._streams.cache_clear()
    yield Stream.current
    streams._streams.cache_clear()


def test_each_path_waits_for_what_was_before_and_all_are_waited_for(main, monkeypatch):
    recorded = []
    monkeypatch.setattr(Tensor, "record_stream", lambda t, s: recorded.append((t, s)))
    begun = {}

    def layer(i):
        def run(x):
            begun[i] = Stream.current, set(Stream.current.ended)
            Stream.current.ended.add(i)
            return x * (i + 1)

        return run

    main.ended.add("router")
    xs, beside = [torch.ones(2) for _ in range(3)], [Stream(), Stream()]
    ys = streams.side_by_side([layer(i) for i in range(3)], xs, beside)
    assert [y.tolist() for y in ys] == [[1, 1], [2, 2], [3, 3]]
    # No path waits for another one.
    assert begun == {i: (s, {"router"}) for i, s in enumerate([main, *beside])}
    assert main.ended == {"router", 0, 1, 2} and Stream.current is main
    expected = [*zip(xs, [main, *beside]), (ys[1], main), (ys[2], main)]
    assert [(id(t), s) for t, s in recorded] == [(id(t), s) for t, s in expected]


def test_they_have_their_own_streams_in_a_captured_graph_alone(main, monkeypatch):
    capturing = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: bool(capturing))
    with FakeTensorMode():
        on_gpu, on_cpu = ([torch.empty(2, 3, device=d) for _ in range(3)] for d in ("cuda", "cpu"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert streams.streams_beside(on_gpu) == []
    made = streams._streams.cache_info().currsize
    capturing.append(True)
    beside = streams.streams_beside(on_gpu)
    assert len({*beside, main}) == 3 and streams.streams_beside(on_gpu) == beside
    assert streams._streams.cache_info().currsize == made == 1  # none was made in the capture
    assert streams.streams_beside(on_cpu) == streams.streams_beside(on_gpu[:1]) == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # and so nothing is captured
    assert streams.streams_beside(on_gpu) == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert streams.streams_beside(on_gpu) == []


def test_layers_in_parallel_take_them(main, monkeypatch):
    monkeypatch.setattr("models.networks.layers.streams_beside", lambda xs: [Stream()])
    monkeypatch.setattr(Tensor, "record_stream", lambda t, s: None)
    layers, xs = Parallel(2, lambda: nn.Linear(3, 2)), [torch.randn(4, 3) for _ in range(2)]
    for y, layer, x in zip(layers(xs), layers, xs):
        assert torch.equal(y, layer(x))
