"""What a suite is made of: rows, each telling how to time one operation of every subject.

A suite is a file in ``benchmarks/suites`` with a docstring, whose first line is its title, and a
list ``ROWS``. To add one, add the file.

The file is read by the command and again by the process of each subject, which has nothing but
that subject on its path: so a suite imports the standard library and this module at its top, and
what it measures inside the functions. ``encore`` is this project in the process of the subject
``encore``, and 0.8 in that of ``encore08``, so one function often serves both.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from time import perf_counter
from timeit import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType
    from typing import Any

    #: Does the operation that many times, and returns what that took: seconds, as a rule.
    Measure = Callable[[int], float]
    #: Makes everything ready, outside the measurement.
    Setup = Callable[[], Measure]

__all__ = ["LEVELS", "Row", "Skip", "both", "compiled", "each", "load", "loop", "peak", "scratch"]

#: How much is measured: with --quick, without, and with --large.
LEVELS = ("quick", "usual", "large")


class Skip(Exception):
    """A subject cannot be measured here; the reason is shown, and that is no failure."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    name : str
        What is done.
    setups : mapping
        By subject ('encore', 'encore08', 'limit' or a peer), what makes it ready and returns the
        function that measures it; `loop` makes one.
    goals : mapping
        Goals by ratio: ``S``, how many times faster than 0.8 at least; ``L``, how many times the
        limit's figure at most; ``G``, how many times the figure of `base` at most; ``V``, the
        greatest figure of this project.
    limit : str
        What the subject ``limit`` does.
    base : str
        The row of the same suite with which growth is compared.
    slice : float
        One measurement does as many operations as take this many seconds.
    count : int
        One measurement does this many operations, however long that takes.
    slices : int
        It is measured at most this many times a round.
    unit : {'s', 'B', 'B/s', '/s'}
        What is shown. Bytes are measured as such, everything else in seconds: a rate is `amount`
        by the seconds of an operation, and goals and ratios are those of the seconds.
    amount : float
        The bytes, or whatever is counted, of one operation.
    alone : bool
        Each measurement has a process that has done nothing else, no operation to warm up either.
    levels : tuple
        Those of `LEVELS` at which it is measured.
    """

    name: str
    setups: Mapping[str, Setup]
    goals: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    base: str | None = None
    slice: float = 0.005
    count: int | None = None
    slices: int | None = None
    unit: str = "s"
    amount: float = 1.0
    alone: bool = False
    levels: tuple[str, ...] = LEVELS


def loop(statement: str, /, **names: Any) -> Measure:
    """Measure a statement as `timeit` does: in a loop without a call, and without collections."""
    return Timer(statement, globals=names).timeit


def compiled(head: str, statement: str, /, argument: str, names: Mapping[str, Any]) -> Any:
    """A function of one argument that does a statement in a block."""
    body = textwrap.indent(f"{head}\n{textwrap.indent(statement, '    ')}", "    ")
    found = dict(names)
    exec(f"def run({argument}):\n{body}\n", found)
    return found["run"]


def each(
    statement: str,
    /,
    prepare: Callable[[int], Iterable[Any]],
    after: Callable[[Iterable[Any]], object] | None = None,
    **names: Any,
) -> Measure:
    """Measure a statement for each `k` of what `prepare` returns, as many as it is asked for.

    `after` gets them when the time is taken. As with `loop` there is no call, and no collection.
    """
    run = compiled("for k in prepared:", statement, "prepared", names)

    def measure(count: int) -> float:
        prepared = prepare(count)
        collects = gc.isenabled()
        gc.disable()
        try:
            start = perf_counter()
            run(prepared)
            took = perf_counter() - start
        finally:
            if collects:
                gc.enable()
        if after is not None:
            after(prepared)
        return took

    return measure


def peak(work: Callable[[], object]) -> float:
    """The bytes by which this process was larger at its largest than before."""

    def memory(name: str) -> int:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the peak begins anew: proc(5)
        before = memory("VmRSS")
    except OSError as error:
        raise Skip(f"there is no telling how large a process was: {error}") from error
    work()
    return float(max(0, memory("VmHWM") - before))


def scratch(memory: bool = False) -> Path:
    """A new directory on a disk, or on a file system in memory where there is one.

    It goes with all others when the process of the subject ends.
    """
    return Path(tempfile.mkdtemp(dir=os.environ["BENCHMARKS_MEMORY"] if memory else None))


def both(setup: Setup) -> dict[str, Setup]:
    """The same function for this project and for 0.8."""
    return {"encore": setup, "encore08": setup}


def load(path: Path) -> ModuleType:
    """The module of a suite, from anywhere."""
    spec = spec_from_file_location(f"benchmarks_suite_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
