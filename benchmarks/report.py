"""What was measured, for people: a table on the terminal, a page of the documentation, JSON."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from .places import disk, kind, memory
from .subjects import PINS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from .measure import Effort, Result
    from .suite import Row

__all__ = [
    "RATIOS",
    "Suite",
    "as_data",
    "facts",
    "goals",
    "missed",
    "page",
    "table",
    "value",
    "verdict",
]

_UNITS = {
    "s": [("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)],
    "B": [("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0)],
    "B/s": [("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)],
    "/s": [("million/s", 1e6), ("thousand/s", 1e3), ("/s", 1.0)],
}
RATIOS = {
    "S": "how many times faster than EnCore 0.8 it is",
    "L": "how many times the figure of the limit it takes",
    "G": "how many times the figure of the first row of its kind it takes; 1 is no growth",
}
_COLUMNS = {"encore": "encore", "encore08": "EnCore 0.8", "limit": "limit"}


@dataclass
class Suite:
    """The results of one suite."""

    name: str
    title: str
    results: Sequence[Result]


def _digits(number: float) -> str:
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f}"


def value(number: float | None, unit: str = "s", amount: float = 1.0) -> str:
    """A figure with its unit, three digits long; if that is a rate, the seconds for the amount."""
    if number is None:
        return ""
    if unit.endswith("/s"):
        number = amount / number if number else float("inf")
    units = _UNITS[unit]
    name, factor = next((one for one in units if number >= 0.9995 * one[1]), units[-1])
    return f"{_digits(number / factor)} {name}"


def _value(number: float | None, row: Row) -> str:
    return value(number, row.unit, row.amount)


def _goal(name: str, goal: float, row: Row) -> str:
    return _value(goal, row) if name == "V" else f"{goal:g}"


def goals(row: Row) -> list[str]:
    """The goals of a row."""
    return [f"{name} {_goal(name, goal, row)}" for name, goal in row.goals.items()]


def verdict(result: Result) -> str:
    """What became of the goals of a row."""
    words = []
    for name, goal in result.row.goals.items():
        number = result.ratio(name)
        wanted = _goal(name, goal, result.row)
        shown = _value(number, result.row) if name == "V" else _digits(number or 0.0)
        if number is None:
            words.append(f"{name} {wanted}: not measured")
        # What is shown is what counts: 3.996 is 4.00.
        elif shown == wanted or (number > goal) == (name == "S") or float(_digits(number)) == goal:
            words.append(f"{name} {wanted}: reached")
        else:
            words.append(f"{name}: not reached: {shown} instead of {wanted}")
    return "; ".join(words)


def missed(suites: Iterable[Suite]) -> list[Result]:
    """The rows with a goal that was measured and not reached."""
    return [row for suite in suites for row in suite.results if "not reached" in verdict(row)]


def _figure(result: Result, subject: str) -> str:
    if subject in result.errors:
        return f"failed: {result.errors[subject]}"
    if subject in result.skipped:
        return f"skipped: {result.skipped[subject]}"
    return _value(result.median(subject), result.row)


def _cells(suite: Suite) -> list[list[str]]:
    """The table of a suite, headings first."""
    ratios = [n for n in RATIOS if any(row.ratio(n) is not None for row in suite.results)]
    lines = [["", *_COLUMNS.values(), "peers", *ratios, "goals"]]
    for result in suite.results:
        line = [result.row.name, *(_figure(result, subject) for subject in _COLUMNS)]
        if line[-1] and result.row.limit:
            line[-1] += f" ({result.row.limit})"
        peers = {*result.rounds, *result.errors, *result.skipped} - set(_COLUMNS)
        fastest_first = sorted(peers, key=lambda peer: result.median(peer) or float("inf"))
        line.append(", ".join(f"{peer} {_figure(result, peer)}" for peer in fastest_first))
        line += ["" if (x := result.ratio(name)) is None else _digits(x) for name in ratios]
        lines.append([*line, verdict(result)])
    return lines


def table(suite: Suite) -> str:
    """The table of a suite for a terminal."""
    heading, *lines = _cells(suite)
    widths = [max(map(len, column)) for column in zip(heading, *lines, strict=True)]
    lines[:0] = [heading, ["-" * width for width in widths]]
    rows = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join([f"{suite.name}: {suite.title}", "", *(row.rstrip() for row in rows)])


def facts(effort: Effort) -> dict[str, Any]:
    """When and where it is measured, and how much."""
    release = platform.release().partition("-")[0]
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {release} {platform.machine()}",
        "disk": kind(disk()) or "an unknown file system",
        "memory": kind(memory() or disk()) or "an unknown file system",
        "rounds": effort.rounds,
        "slices": effort.slices,
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def as_data(suites: Iterable[Suite], about: dict[str, Any]) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        **about,
        "subjects": PINS,
        "suites": {
            suite.name: [
                {
                    "row": result.row.name,
                    "unit": result.row.unit,
                    "amount": result.row.amount,
                    "rounds": result.rounds,
                    "medians": {name: result.median(name) for name in result.rounds},
                    "errors": result.errors,
                    "skipped": result.skipped,
                    "ratios": {name: result.ratio(name) for name in RATIOS},
                    "goals": dict(result.row.goals),
                    "verdict": verdict(result),
                }
                for result in suite.results
            ]
            for suite in suites
        },
    }


_PAGE = """\
Benchmarks
==========

.. Written by ``python -m benchmarks --write-docs``.

Measured on {date}: {cpu} with {cores} cores (load {load} at the start), {system}, {python}.
Compared with {others},
and with a limit that does only the unavoidable work. The disk is {disk}; what is said to be in
memory is {memory}.

Every subject has a process of its own. In each of {rounds} rounds they are measured in turns,
at most {slices} times each, and the least counts; shown are the medians over the rounds. A ratio
is the median of the ratios of the rounds, and need not be the quotient of what stands beside it:

{legend}

``python -m benchmarks`` measures all this again; it installs what it compares with in a cache
directory.

"""


def page(suites: Iterable[Suite], about: dict[str, Any]) -> str:
    """The page of the documentation."""
    legend = "\n".join(f"{name}\n    {text}" for name, text in RATIOS.items())
    others = ", ".join(pin.replace("==", " ") for pin in PINS.values())
    text = _PAGE.format(**about, legend=legend, others=others)
    for suite in suites:
        text += (
            f"{suite.title}\n{'-' * len(suite.title)}\n\n.. list-table::\n   :header-rows: 1\n\n"
        )
        for line in _cells(suite):
            cells = (f"     - {_plain(cell)}".rstrip() for cell in line)
            text += "\n".join(cells).replace("     -", "   * -", 1) + "\n"
        text += "\n"
    return text.rstrip("\n") + "\n"


def _plain(text: str) -> str:
    """Text without markup for reStructuredText, in one line."""
    return " ".join("".join(f"\\{c}" if c in "\\`*_|" else c for c in text).split())
