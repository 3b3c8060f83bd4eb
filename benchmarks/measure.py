"""Runs the rows of a suite: one process a subject, in turns, round after round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory, mkdtemp
from threading import Timer
from typing import TYPE_CHECKING

from .places import disk, memory, own_prefix
from .subjects import Unavailable, cache, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from .suite import Row

__all__ = ["Effort", "Result", "measure"]

#: Seconds after which a subject that has not answered is taken for hung.
PATIENCE = 300.0


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    In each round every subject of a row is measured `slices` times, in turns. The least counts, for
    what disturbs a measurement only adds to it.
    """

    rounds: int = 7
    slices: int = 5
    scale: float = 1.0


@dataclass
class Result:
    """The figures of one row: for each subject one a round, or why there are none."""

    row: Row
    rounds: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    base: Result | None = None

    def median(self, subject: str) -> float | None:
        values = self.rounds.get(subject)
        return median(values) if values else None

    def ratio(self, name: str) -> float | None:
        """What goals are set for, see :class:`~benchmarks.suite.Row`.

        It is the median of the ratios of the rounds, in each of which both were measured next to
        each other: a machine that was slow for a while was so for both.
        """
        ours = self.rounds.get("encore", [])
        if name == "S":
            pairs = zip(self.rounds.get("encore08", []), ours, strict=False)
        elif name == "L":
            pairs = zip(ours, self.rounds.get("limit", []), strict=False)
        elif name == "G":
            pairs = zip(ours, self.base.rounds.get("encore", []) if self.base else [], strict=False)
        else:
            return self.median("encore")
        ratios = [over / under for over, under in pairs if under]
        return median(ratios) if ratios else None


def measure(
    suite: Path, rows: Sequence[tuple[int, Row]], subjects: Iterable[str], effort: Effort
) -> list[Result]:
    """Measure rows of a suite, given with their numbers, for those of the subjects they have."""
    results = {row.name: Result(row) for _, row in rows}
    for result in results.values():
        result.base = results.get(result.row.base or "")
    with ExitStack() as stack:
        processes: dict[str, _Process] = {}
        places = stack.enter_context(_places())
        for name in subjects:
            concerned = [result for result in results.values() if name in result.row.setups]
            try:
                if concerned:
                    processes[name] = _Process(suite, name, path_of(name), places)
                    stack.callback(processes[name].end, patience=10.0)
            except Unavailable as error:
                for result in concerned:
                    # Without 0.8 nothing is known; without a peer little is missing.
                    missing = result.errors if name == "encore08" else result.skipped
                    missing[name] = str(error)
        for _ in range(effort.rounds):
            for number, row in rows:
                _one_round(results[row.name], number, processes, effort)
    return list(results.values())


def _one_round(result: Result, number: int, processes: dict[str, _Process], effort: Effort) -> None:
    figures: dict[str, list[float]] = {}
    row = result.row
    for _ in range(min(effort.slices, row.slices or effort.slices)):
        for name, process in processes.items():
            if name not in row.setups or name in result.errors or name in result.skipped:
                continue
            answer = process.ask(number, row.slice * effort.scale, row.alone)
            if "value" in answer:
                figures.setdefault(name, []).append(answer["value"])
            elif "skipped" in answer:
                result.skipped[name] = answer["skipped"]
            else:
                result.errors[name] = answer["error"]
    for name, values in figures.items():
        result.rounds.setdefault(name, []).append(min(values))
    for name in (*result.errors, *result.skipped):
        result.rounds.pop(name, None)


@contextmanager
def _places() -> Iterator[dict[str, str]]:
    """Directories for the files of all subjects, as settings for the environment."""
    with (
        TemporaryDirectory(dir=disk(), prefix=own_prefix(disk())) as on_disk,
        TemporaryDirectory(
            dir=memory() or on_disk, prefix=own_prefix(memory() or Path(on_disk))
        ) as in_memory,
    ):
        yield {"TMPDIR": on_disk, "BENCHMARKS_MEMORY": in_memory}


class _Process:
    """The process of a subject. It starts when it is asked, and again if it has ended."""

    def __init__(
        self, suite: Path, subject: str, path: Path | None, places: Mapping[str, str]
    ) -> None:
        # Isolated: no setting in the environment counts, and no current directory. Without site:
        # nothing that happens to be installed can be imported.
        self._command = [sys.executable, "-I", "-S", "-X", f"pycache_prefix={cache() / 'pycache'}"]
        self._command += [str(Path(__file__).with_name("child.py")), str(suite), subject]
        if path is not None:
            self._command.append(str(path))
        self._places = places
        self._folders: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    def ask(self, number: int, seconds: float, alone: bool = False) -> dict[str, Any]:
        """Ask it, or a process of its own that ends with the answer."""
        if alone:
            other = copy(self)
            other._process = None
            try:
                return other.ask(number, seconds)
            finally:
                other.end(patience=10.0)
        if self._process is None:
            # Gigabytes may be in them, so that they go as soon as the process has ended.
            folders = {name: mkdtemp(dir=place) for name, place in self._places.items()}
            self._folders = [*folders.values()]
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
                env={**os.environ, **folders},
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = Timer(PATIENCE, process.kill)
        watchdog.start()
        try:
            process.stdin.write(json.dumps([number, seconds]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            return {"error": f"its process ended with status {self.end(patience=1.0)}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self, patience: float) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        for folder in self._folders:
            rmtree(folder, ignore_errors=True)
        return process.returncode
