"""Processes that run the cases of a step, each case with a time limit.

A process takes one case at a time. If it hangs it is killed; if it dies or breaks its CUDA context,
another one takes its place. Either costs only the row of its case.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.gpu.rows import Row
from proof.where import ROOT

START_SECONDS = 90.0  # to import torch and open the card
STACK_SECONDS = 2.0  # to write the stack of a hanging case
LOG_CHARACTERS = 4000


class _Worker:
    """One process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.buffer, self.log = b"", tempfile.TemporaryFile()  # noqa: SIM115  (`kill` closes it)
        try:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self.log, start_new_session=True,
            )  # fmt: skip
        except OSError:
            self.log.close()
            raise

    def answer(self, seconds: float) -> Row:
        """The next line. TimeoutError if none comes in time, EOFError if the process ended."""
        assert self.process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = max(0.0, end - time.monotonic())
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError
            read = os.read(self.process.stdout.fileno(), 1 << 16)
            if not read:
                raise EOFError
            self.buffer += read
        line, _, self.buffer = self.buffer.partition(b"\n")
        return json.loads(line)  # type: ignore[no-any-return]

    def ask(self, case: str, seconds: float) -> Row:
        """The row of a case; raises what `answer` does."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(case).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer(seconds)

    def last_words(self) -> str:
        """The end of what the process wrote to stderr."""
        self.log.seek(max(0, self.log.seek(0, os.SEEK_END) - LOG_CHARACTERS))
        return self.log.read().decode(errors="replace")

    def stack(self) -> str:
        """The log with Python's stacks, which the process writes when it gets SIGUSR1."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(STACK_SECONDS)
        return self.last_words()

    def kill(self) -> None:
        """Ends the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.log):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


class Pool:
    """Runs cases side by side.

    Args:
        command: starts a process.
        environment: variables of the processes, in addition to this one's.
        workers: the most processes at a time.
        case_seconds: the time limit of a case.
        deadline: when all of it ends, by time.monotonic.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        workers: int,
        case_seconds: float,
        deadline: float,
    ) -> None:
        self.command, self.environment, self.workers = command, environment, workers
        self.case_seconds, self.deadline = case_seconds, deadline

    def run(self, cases: Sequence[str]) -> Iterator[Row]:
        """The rows of all cases, each when it ends."""
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        done: queue.SimpleQueue[Row] = queue.SimpleQueue()
        for case in cases:
            waiting.put(case)
        count = min(self.workers, len(cases))
        threads = [
            threading.Thread(target=self._serve, args=(waiting, done), daemon=True)
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for _ in cases:
            yield done.get()
        for thread in threads:
            thread.join()

    def _serve(self, waiting: queue.SimpleQueue[str], done: queue.SimpleQueue[Row]) -> None:
        worker: _Worker | None = None
        while True:
            try:
                case = waiting.get_nowait()
            except queue.Empty:
                break
            begun = time.monotonic()
            left = self.deadline - begun
            row: Row = {"state": "not reached", "why": "the time of its step was over"}
            if left > 0:
                try:
                    if worker is None:
                        worker = _Worker(self.command, self.environment)
                        worker.answer(min(START_SECONDS, left))
                        begun, left = time.monotonic(), self.deadline - time.monotonic()
                    row = worker.ask(case, min(self.case_seconds, left))
                except TimeoutError:
                    assert worker is not None
                    if time.monotonic() < self.deadline:
                        why = f"no answer for {time.monotonic() - begun:.0f} s"
                        row = {"state": "timed out", "why": why, "traceback": worker.stack()}
                    worker = worker.kill()
                except (EOFError, OSError) as error:
                    row = {"state": "failed", "why": f"no process: {error}"}
                    if worker is not None:
                        status = worker.process.wait()
                        why = f"its process ended with status {status}"
                        row = {"state": "failed", "why": why, "traceback": worker.last_words()}
                        worker = worker.kill()
                if row.pop("broken", False) and worker is not None:
                    worker = worker.kill()
            done.put({"case": case, **row, "seconds": round(time.monotonic() - begun, 2)})
        if worker is not None:
            worker.kill()
