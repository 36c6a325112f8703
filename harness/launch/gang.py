"""A gang: the workers of one trial, with one interface whether in this process, in child processes or under Ray."""

import multiprocessing
import os
import sys
import traceback
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Protocol

from harness.launch.drain import signals_blocked
from harness.plan.timing import Machine, RoundLimits, joined
from harness.record.files import open_in_place
from harness.train.timing import Round
from harness.train.worker import Task, Worker

# A forked torch may hang in its thread pools, and importing it takes every worker seconds. So workers are forked from a
# server that has imported it and done nothing else. torch._dynamo: torch imports it for the first optimizer.
PRELOADED = ["harness.train.worker", "torch._dynamo"]


class GangError(RuntimeError):
    """A worker died or raised; its gang is gone and must not be used again (P21)."""


class Gang(Protocol):
    """W warm workers that run one task after another."""

    def start(self, task: Task) -> None: ...

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        """Train until the first evaluation after `seconds`; the rows written (see Worker.advance)."""
        ...

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        """Time so many rounds of a task's updates, one after another."""
        ...

    def measure_parts(self, task: Task) -> dict[str, Any]:
        """What a task's updates are made of, and what a run of it spends besides: see train.parts."""
        ...

    def machine(self) -> Machine:
        """What the workers compute on; models of devices are joined where they differ."""
        ...

    def largest_micro_batch(self, task: Task, memory_share: float) -> int: ...

    def resident_bytes(self) -> int:
        """Memory of the largest worker."""
        ...

    def close(self) -> None: ...


class InProcessGang:
    """The one worker of a W = 1 trial, in this process."""

    def __init__(self, device: str, threads: int, memory_share: float = 1.0) -> None:
        self.worker = Worker(0, 1, device, threads, memory_share)

    def start(self, task: Task) -> None:
        self.worker.start(task)

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        return self.worker.advance(seconds)

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        return self.worker.time_rounds(task, limits, rounds)

    def measure_parts(self, task: Task) -> dict[str, Any]:
        return self.worker.measure_parts(task)

    def machine(self) -> Machine:
        return self.worker.machine()

    def largest_micro_batch(self, task: Task, memory_share: float) -> int:
        return self.worker.largest_micro_batch(task, memory_share)

    def resident_bytes(self) -> int:
        return self.worker.resident_bytes()

    def close(self) -> None:
        self.worker.stop()


class ProcessGang:
    """W child processes on this machine, for the inline launcher."""

    def __init__(self, world_size: int, device: str, threads: int) -> None:
        context = _fork_server()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            where = f"{device}:{rank}" if device == "cuda" else device
            process = context.Process(target=_serve, args=(theirs, rank, world_size, where, threads), daemon=True)
            with signals_blocked():  # a drain reaches them through the study's flag
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        port = self._call([self._pipes[0]], "bind_store", "127.0.0.1")[0]
        self._call(self._pipes, "join", "127.0.0.1", port)

    def start(self, task: Task) -> None:
        self._call(self._pipes, "start", task)

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        return self._call(self._pipes, "advance", seconds)[0]

    def time_rounds(self, task: Task, limits: RoundLimits, rounds: int) -> list[Round]:
        return self._call(self._pipes, "time_rounds", task, limits, rounds)[0]

    def measure_parts(self, task: Task) -> dict[str, Any]:
        return self._call(self._pipes, "measure_parts", task)[0]

    def machine(self) -> Machine:
        return joined(self._call(self._pipes, "machine"))

    def largest_micro_batch(self, task: Task, memory_share: float) -> int:
        return min(self._call(self._pipes, "largest_micro_batch", task, memory_share))

    def resident_bytes(self) -> int:
        return max(self._call(self._pipes, "resident_bytes"))

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def _call(self, pipes: list[Connection], method: str, *args: Any) -> list[Any]:
        """The same call on every worker; the first failure kills all of them and raises GangError."""
        answers: dict[int, Any] = {}
        try:
            for pipe in pipes:
                pipe.send((method, args))
            while len(answers) < len(pipes):
                for ready in wait([p for i, p in enumerate(pipes) if i not in answers]):
                    rank = next(i for i, p in enumerate(pipes) if p is ready)
                    succeeded, value = pipes[rank].recv()
                    if not succeeded:
                        raise GangError(value)
                    answers[rank] = value
        except (EOFError, OSError) as error:
            self.close()
            raise GangError(f"a worker process died during {method}") from error
        except GangError:
            self.close()
            raise
        return [answers[rank] for rank in range(len(pipes))]


def _fork_server() -> ForkServerContext:
    """Runs from the first gang to the end of this process, without the driver's signals and its working directory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"  # a module is not searched for where the command was started
    try:
        with signals_blocked():
            forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONSAFEPATH")
        if before is not None:
            os.environ["PYTHONSAFEPATH"] = before
    return context


def _serve(pipe: Connection, rank: int, world_size: int, device: str, threads: int) -> None:
    """The main function of a child process: one Worker that answers calls until its pipe closes."""
    worker = Worker(rank, world_size, device, threads)
    while True:
        try:
            method, args = pipe.recv()
        except EOFError:
            return
        try:
            if method == "start":
                send_output_to(Path(args[0].folder) / "log.txt")
            pipe.send((True, getattr(worker, method)(*args)))
        except BaseException:
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            pipe.send((False, text))


def send_output_to(path: Path) -> None:
    """Append this process's stdout and stderr to `path`, a trial's log, from now on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    file = open_in_place(path, os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
