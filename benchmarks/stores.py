"""What the suites of the stores share: how each subject uses a store, and what is measured of it.

A value has 100 bytes and three names of metadata; the peers have no metadata, theirs is the data
alone. Keys are taken in random order. What a measurement sets is deleted again, and the other way
round, when the time is taken, so that all find a store with the same keys.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from io import BytesIO
from itertools import count as numbers
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.parallel import in_processes, in_threads
from benchmarks.suite import LEVELS, Row, compiled, each, loop, peak, scratch

if TYPE_CHECKING:
    from benchmarks.suite import Measure, Setup

__all__ = [
    "MANY",
    "MIB",
    "Libraries",
    "Library",
    "Names",
    "Pairs",
    "encore",
    "growing",
    "large",
    "large_file",
    "mixtures",
    "row",
]

Names = dict[str, Any]
Pairs = list[tuple[str, dict[str, Any]]]

MIB = 2**20
DATA = bytes(range(100))

#: So many keys a store has, where it is not said.
MANY = 10_000

#: So many keys are found by a query, however many keys there are: those with SUBJECT.
MATCHES = 100
SUBJECT = "s7"

#: Ten keys match.
PATTERN = "key000123*"

# Of so many operations of a mixture one sets.
_SETS = 10


def keys(count: int) -> list[str]:
    return [f"key{number:07}" for number in range(count)]


def pairs(count: int) -> Pairs:
    return [(key, metadata(number, count)) for number, key in enumerate(keys(count))]


def metadata(number: int, count: int) -> dict[str, Any]:
    subject = number % max(1, count // MATCHES)
    return {"title": f"The title of {number}", "subject": f"s{subject}", "pages": number % 1000}


@dataclass(frozen=True, eq=False)
class Library:
    """How a subject uses a store.

    `make` makes an empty store where there is nothing, and `open` returns the names that the
    statements use; they also have the key `k`, the data `data` and the metadata `m`, and those of
    large values the path of a file, `file`.
    """

    open: Callable[[Path], Names]
    set: str
    get: str
    exists: str
    delete: str
    close: str = "pass"
    make: Callable[[Path], object] = Path.mkdir
    #: Sets many keys at once.
    fill: Callable[[Names, Pairs], object] | None = None
    query: str = ""
    glob: str = ""
    page: str = ""
    #: What can be done with a large value: 'from_file', 'set', 'read'; and
    #: expressions for 4 KiB of it, 'part' and 'range'.
    large: Mapping[str, str] = field(default_factory=dict)
    #: Whether the files are in memory.
    memory: bool = False
    #: Whether each thread opens the store for itself.
    of_thread: bool = False

    # Life cycle

    def new(self) -> Names:
        """Names for an empty store."""
        path = scratch(self.memory) / "store"
        self.make(path)
        return self.opened(path)

    def opened(self, path: Path) -> Names:
        also = {"pattern": PATTERN, "subject": SUBJECT, "B": BytesIO}
        return {"path": path, "data": DATA, "m": metadata(7, 1000), **also, **self.open(path)}

    def remove(self, names: Names) -> None:
        exec(self.close, names)
        shutil.rmtree(names["path"].parent, ignore_errors=True)

    @cache  # noqa: B019
    def filled(self, count: int, overwritten: bool = False) -> Names:
        """Names for a store with so many keys, the same each time."""
        names = self.new()
        if self.fill is None:
            self._do(self.set, names, keys(count))
        else:
            found = pairs(count)
            for start in range(0, count, MANY):
                self.fill(names, found[start : start + MANY])
        return names

    # One key

    def getting(self, count: int) -> Measure:
        return each(self.get, _taken(keys(count)), **self.filled(count))

    def asking(self, count: int) -> Measure:
        return each(self.exists, _taken(keys(count)), **self.filled(count))

    def overwriting(self, count: int) -> Measure:
        return each(self.set, _taken(keys(count)), **self.filled(count, overwritten=True))

    def setting(self, count: int) -> Measure:
        names = self.filled(count)
        return each(self.set, _new_keys(), partial(self._do, self.delete, names), **names)

    def deleting(self, count: int) -> Measure:
        names, new_keys = self.filled(count), _new_keys()

        def prepare(many: int) -> list[str]:
            chosen = new_keys(many)
            self._do(self.set, names, chosen)
            return chosen

        return each(self.delete, prepare, **names)

    @staticmethod
    def _do(statement: str, names: Names, chosen: Iterable[str]) -> None:
        compiled("for k in chosen:", statement, "chosen", names)(chosen)

    # Many keys

    def setting_many(self) -> Measure:
        """Measure what sets many keys at once in an empty store; a figure is for one key."""

        def measure(count: int) -> float:
            assert self.fill is not None
            names, found = self.new(), pairs(count)
            start = perf_counter()
            self.fill(names, found)
            took = perf_counter() - start
            self.remove(names)
            return took

        return measure

    def querying(self, count: int) -> Measure:
        return self._finding(self.query, count, MATCHES)

    def globbing(self, count: int) -> Measure:
        return self._finding(self.glob, count, 10)

    def paging(self, count: int) -> Measure:
        return self._finding(self.page, count, 100)

    def _finding(self, statement: str, count: int, wanted: int) -> Measure:
        names = self.filled(count)
        found = eval(statement, names)
        if len(found) != wanted:
            raise AssertionError(f"{len(found)} keys were found, not {wanted}")
        return loop(statement, **names)

    # Several at once, each with keys of its own

    def threads(self, count: int) -> Measure:
        names = self.filled(1000, overwritten=True)

        def work(chosen: list[str], many: int) -> Callable[[], object]:
            return self._mixture(
                self.opened(names["path"]) if self.of_thread else names, chosen, many
            )

        return lambda many: in_threads(_shares(work, count, many))

    def processes(self, count: int) -> Measure:
        # Not the one that the other rows use: what is open is nothing for a process to inherit.
        names = self.filled.__wrapped__(self, 1000)
        exec(self.close, names)

        def work(chosen: list[str], many: int) -> Callable[[], object]:
            return self._mixture(self.opened(names["path"]), chosen, many)

        return lambda many: in_processes(_shares(work, count, many))

    def _mixture(self, names: Names, chosen: list[str], many: int) -> Callable[[], object]:
        statement = f"if sets:\n{_indented(self.set)}\nelse:\n{_indented(self.get)}"
        run = compiled("for k, sets in work:", statement, "work", names)
        work = [(key, n % _SETS == 0) for n, key in enumerate(_taken(chosen)(many))]
        return partial(run, work)

    # A large value

    def streaming(self, way: str, size: int) -> Measure:
        """Measure the seconds of 'from_file', 'set' or 'read'."""
        return self._large(way, size, _seconds)

    def streaming_memory(self, way: str, size: int) -> Measure:
        """Measure the memory of it."""
        return self._large(way, size, peak)

    def _large(self, way: str, size: int, measured: Callable[[Work], float]) -> Measure:
        file, small = large_file(size, self.memory), large_file(1000, self.memory)

        def measure(count: int) -> float:
            total = 0.0
            for _ in range(count):
                names = self.new()
                # What is loaded at the first use is not of the value.
                self._stream(("from_file", way), names, "small", small)
                if way == "read":
                    self._stream(("from_file",), names, "large", file)
                total += measured(partial(self._stream, (way,), names, "large", file))
                self.remove(names)
            return total

        return measure

    def _stream(self, ways: Iterable[str], names: Names, key: str, file: Path) -> None:
        for way in ways:
            exec(self.large[way], {**names, "k": key, "file": file})

    def parts(self, size: int, way: str = "part") -> Measure:
        """Measure reading 4 KiB in the middle of a large value."""
        names = {**self.new(), "k": "large", "file": large_file(size, self.memory)}
        exec(self.large["from_file"], names)
        names["a"] = size // 2
        if "s" in names and hasattr(names["s"], "get"):
            names["value"] = names["s"].get("large")
        if len(eval(self.large[way], names)) != 4096:
            raise AssertionError("it is not 4096 bytes")
        return loop(self.large[way], **names)


Work = Callable[[], object]


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


def _taken(found: list[str]) -> Callable[[int], list[str]]:
    """Take some of the keys, again and again from the first after the last."""
    mixed = random.Random(len(found)).sample(found, len(found))
    endless = cycle(mixed)
    return lambda count: list(islice(endless, count))


def _new_keys() -> Callable[[int], list[str]]:
    series = numbers()
    return lambda count: [f"new{next(series):09}" for _ in range(count)]


def _shares(work: Callable[[list[str], int], Work], count: int, many: int) -> list[Any]:
    """One work for each of so many, that are `many` operations together."""
    chosen = keys(1000)
    return [
        partial(work, chosen[n::count], many // count + (n < many % count)) for n in range(count)
    ]


def _seconds(work: Work) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


@cache
def large_file(size: int, memory: bool) -> Path:
    path, block = scratch(memory) / "file", random.Random(size).randbytes(MIB)
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(block[: size - start])
    return path


# This project and 0.8


def _fill(names: Names, found: Pairs) -> None:
    names["s"].multiset([key for key, _ in found], [(BytesIO(DATA), m) for _, m in found])


def encore(open: Callable[[Path], Any], **more: Any) -> Library:
    """A store of this project or of 0.8."""

    def connected(path: Path) -> Names:
        store = open(path)
        store.connect({})
        return {"s": store}

    return Library(
        connected,
        set="s.set(k, (B(data), m))",
        get="s.get(k).data.read()",
        exists="s.exists(k)",
        delete="s.delete(k)",
        close="s.disconnect()",
        fill=_fill,
        query="list(s.query(subject=subject))",
        glob="list(s.glob(pattern))",
        page="list(s.keys(start_after='key0000500', limit=100))",
        large={
            "from_file": "s.from_file(k, str(file))",
            "set": "with open(file, 'rb') as f: s.set(k, (f, {}))",
            "read": "with s.get_data(k) as f:\n    while f.read(1 << 20): pass",
            "part": "s.get_data_range(k, a, a + 4096).read()",
            "range": "value.range(a, a + 4096).read()",
        },
        **more,
    )


# Rows

Libraries = dict[str, Library]


def row(
    name: str,
    libraries: Libraries,
    way: Callable[..., Measure],
    *args: Any,
    does: str = "",
    goals: dict[str, float] | None = None,
    **more: Any,
) -> Row:
    """A row that does the same for all."""
    ready: dict[str, Setup] = {one: partial(way, libraries[one], *args) for one in libraries}
    return Row(name, ready, goals or {}, does if "limit" in libraries else "", **more)


def growing(
    name: str,
    libraries: Libraries,
    way: Callable[..., Measure],
    most: int = 1_000_000,
    slice: float = 0.005,
) -> list[Row]:
    """How it grows with the number of keys: a hundred times as many cost no more than twice."""
    rows: list[Row] = []
    for count in (1000, 10_000, 100_000, 1_000_000):
        if count <= most:
            levels = LEVELS[(count >= 100_000) + (count >= 1_000_000) :]
            goals, base = ({"G": 2.0}, rows[0].name) if rows else ({}, None)
            more: dict[str, Any] = {"base": base, "slice": slice, "levels": levels}
            rows.append(row(f"{name}, {count} keys", libraries, way, count, goals=goals, **more))
    return rows


def mixtures(
    what: str,
    libraries: Libraries,
    way: Callable[..., Measure],
    counts: Iterable[int],
    slice: float,
) -> list[Row]:
    """Operations a second of several at once."""
    rows: list[Row] = []
    for count in counts:
        name = f"{_SETS - 1} gets to 1 set, {what}: {count}"
        base = rows[0].name if rows else None
        more: dict[str, Any] = {"base": base, "slice": slice, "unit": "/s", "slices": 2}
        rows.append(row(name, libraries, way, count, **more))
    return rows


def large(
    libraries: Libraries,
    does: str,
    goals: dict[str, float],
    memory: Callable[[int], float],
    ways: tuple[str, ...] = ("from_file", "set", "read"),
) -> list[Row]:
    """Speed and memory for a large value; `goals` by way, and what `memory` says of the size."""
    rows = []
    for size, levels in ((16 * MIB, LEVELS[:1]), (256 * MIB, LEVELS[1:])):
        for way in ways:
            name = f"{way} of {size // MIB} MiB"
            wanted = {"S": goals[way]} if way in goals else {}
            more: dict[str, Any] = {"does": does, "count": 1, "slices": 1, "levels": levels}
            speed: dict[str, Any] = {"unit": "B/s", "amount": float(size), "goals": wanted}
            rows.append(row(name, libraries, Library.streaming, way, size, **speed, **more))
            space: dict[str, Any] = {"unit": "B", "alone": True, "goals": {"V": memory(size)}}
            rows.append(
                row(
                    f"{name}: memory",
                    libraries,
                    Library.streaming_memory,
                    way,
                    size,
                    **space,
                    **more,
                )
            )
    return rows
