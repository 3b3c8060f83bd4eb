"""What a suite is made of: rows, each telling how to time one operation of every subject.

A suite is a file in ``benchmarks/suites`` with a docstring, whose first line is its title, and a
list ``ROWS``. To add one, add the file.

The file is read by the command and again by the process of each subject, which has nothing but
that subject on its path: so a suite imports the standard library and this module at its top, and
what it measures inside the functions. ``encore`` is this project in the process of the subject
``encore``, and 0.8 in that of ``encore08``, so one function often serves both.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from timeit import Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import ModuleType
    from typing import Any

    #: Does the operation that many times, and returns what that took: seconds, as a rule.
    Measure = Callable[[int], float]
    #: Makes everything ready, outside the measurement.
    Setup = Callable[[], Measure]

__all__ = ["Row", "both", "load", "loop"]


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
    unit : {'s', 'B'}
        What is measured: seconds or bytes.
    """

    name: str
    setups: Mapping[str, Setup]
    goals: Mapping[str, float] = field(default_factory=dict)
    limit: str = ""
    base: str | None = None
    slice: float = 0.005
    count: int | None = None
    unit: str = "s"


def loop(statement: str, /, **names: Any) -> Measure:
    """Measure a statement as `timeit` does: in a loop without a call, and without collections."""
    return Timer(statement, globals=names).timeit


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
