"""Progress in a terminal.

Operations are painted on a stream that says it is a terminal and takes everything: how fast a
terminal is, is nobody's merit. A figure is for one step of one of them.
"""

from __future__ import annotations

import io
import sys
from functools import partial
from importlib import import_module
from time import monotonic, perf_counter
from typing import TYPE_CHECKING

from benchmarks.suite import Row, both

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from benchmarks.suite import Measure, Setup


class Terminal(io.TextIOBase):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def shown(start: Callable[[int], tuple[Iterable[Any], Iterable[Any]]], bars: int) -> Measure:
    """Measure operations. `start` gets their number of steps, returns what steps, and what ends."""

    def measure(count: int) -> float:
        rounds = -(-count // bars)
        steps, ends = start(rounds)
        began = perf_counter()
        for _ in range(rounds):
            for step in steps:
                step()
        took = perf_counter() - began
        for end in ends:
            end()
        return took * count / (rounds * bars)

    return measure


def display(bars: int) -> Measure:
    # 0.8 writes to the one, this project to the other.
    sys.stdout = sys.stderr = Terminal()
    from encore.events.api import EventManager, ProgressManager
    from encore.terminal.api import ProgressDisplay

    manager = EventManager()
    kept = ProgressDisplay(manager)

    def start(steps: int, _kept: object = kept) -> tuple[list[Any], list[Any]]:
        operations = [ProgressManager(manager, None, n, "Reading", steps) for n in range(bars)]
        for operation in operations:
            operation.start()
        return operations, [operation.end for operation in operations]

    return shown(start, bars)


class Meter:
    """Where an operation is, and whether it is time to paint that."""

    def __init__(self) -> None:
        self.step = 0
        self.due = monotonic() + 1e9

    def __call__(self) -> None:
        self.step += 1
        if monotonic() >= self.due:
            raise AssertionError("nothing is painted here")


def limit(bars: int) -> Measure:
    return shown(lambda steps: ([Meter() for _ in range(bars)], ()), bars)


def tqdm(bars: int) -> Measure:
    bar = import_module("tqdm").tqdm

    def start(steps: int) -> tuple[list[Any], list[Any]]:
        operations = [
            bar(total=steps, desc="Reading", file=Terminal(), ncols=80, position=n)
            for n in range(bars)
        ]
        return [one.update for one in operations], [one.close for one in operations]

    return shown(start, bars)


def rich(bars: int) -> Measure:
    make = import_module("rich.progress").Progress
    console = import_module("rich.console").Console(file=Terminal(), width=80)

    def start(steps: int) -> tuple[list[Any], list[Any]]:
        progress = make(console=console)
        progress.start()
        tasks = [progress.add_task("Reading", total=steps) for _ in range(bars)]
        return [partial(progress.advance, task) for task in tasks], [progress.stop]

    return shown(start, bars)


def row(name: str, bars: int, goal: float) -> Row:
    setups: dict[str, Setup] = {f.__name__: partial(f, bars) for f in (limit, tqdm, rich)}
    setups |= both(partial(display, bars))
    # Long enough for some repaints: those who paint ten times a second pay for it too.
    return Row(name, setups, {"S": goal}, "a count and a clock", slice=0.2)


ROWS = [row("a step, 1 bar", 1, 4.8), row("a step, 20 bars", 20, 18)]
