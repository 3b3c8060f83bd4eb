"""Works that begin at the same moment, in threads or processes, and the seconds they all take.

A work is called to make everything ready, and returns what is measured.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from threading import Barrier, BrokenBarrierError, Thread
from time import perf_counter
from typing import TYPE_CHECKING

from .suite import Skip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Work = Callable[[], Callable[[], object]]

__all__ = ["in_processes", "in_threads"]


def in_threads(works: Sequence[Work]) -> float:
    times: list[tuple[float, float]] = []
    errors: list[Exception] = []
    together = Barrier(len(works))

    def run(work: Work) -> None:
        try:
            measured = work()
            with suppress(BrokenBarrierError):
                together.wait()
                start = perf_counter()
                measured()
                times.append((start, perf_counter()))
        except Exception as error:
            errors.append(error)
            together.abort()

    threads = [Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return _span(times)


def in_processes(works: Sequence[Work]) -> float:
    if not hasattr(os, "fork"):
        raise Skip("processes are forked, which this system cannot")
    # Closed by the parent: they begin.
    begin, hold = os.pipe()
    children = []
    for work in works:
        answers, out = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(hold)
            _child(work, begin, out)
        os.close(out)
        children.append((pid, answers))
    os.close(begin)
    ready = [os.read(answers, 1) for _, answers in children]
    os.close(hold)
    times, errors = [], [] if all(ready) else ["a process ended early"]
    for pid, answers in children:
        with open(answers, "rb") as file:
            answer = json.loads(file.read() or b'{"error": "a process ended early"}')
        os.waitpid(pid, 0)
        if "error" in answer:
            errors.append(answer["error"])
        else:
            times.append((answer["start"], answer["end"]))
    if errors:
        raise RuntimeError(errors[-1])
    return _span(times)


def _child(work: Work, begin: int, out: int) -> None:
    try:
        ready = b" "
        try:
            measured = work()
            os.write(out, ready)
            ready = b""
            os.read(begin, 1)
            start = perf_counter()
            measured()
            answer = json.dumps({"start": start, "end": perf_counter()})
        except Exception as error:
            answer = json.dumps({"error": f"{type(error).__name__}: {error}"})
        os.write(out, ready + answer.encode())
    finally:
        os._exit(0)


def _span(times: Sequence[tuple[float, float]]) -> float:
    return max(end for _, end in times) - min(start for start, _ in times)
