"""Random sequences of operations, compared with a plain dict and between stores.

A step is a tuple of a name and plain arguments, so that a sequence can be shortened, repeated on
another store and printed. What a step did is its outcome: a result, or the name of an error class,
and the events.
"""

from __future__ import annotations

import io
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from ..events.event_manager import EventManager
from ..storage.events import StoreModificationEvent, StoreTransactionEndEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Step = tuple[Any, ...]
    Factory = Callable[[EventManager], Any]

__all__ = [
    "ModelMismatchError",
    "Outcome",
    "as_python",
    "check_store",
    "expected_transcript",
    "random_steps",
    "same",
    "shrink",
    "transcript",
]

_KEYS = ["a", "A", "b", "a/b", "\u00e9", ".a", "k" * 300]
_DATA = [b"", b"x", b"longer data", bytes(range(256)) * 20]
_METADATA: list[dict[str, Any]] = [
    {},
    {"n": 1},
    {"n": True},
    {"n": 1.0},
    {"n": None},
    {"n": [1, {"a": "b"}]},
    {"n": "1", "m": 2},
    {"m": 2.5},
]
_BOUNDS = [None, -3, 0, 2, 10**6]


class Outcome(NamedTuple):
    """What a step did: the same for all stores that keep the contract."""

    #: A result in plain types, or the name of the class of the error.
    result: Any
    #: Class name, key and metadata of each change that was told; state of each transaction ended.
    events: list[tuple[Any, ...]]


class ModelMismatchError(AssertionError):
    """A store and the model disagree.

    Attributes
    ----------
    steps : list
        The shortest sequence that was found.
    """

    def __init__(self, message: str, steps: list[Step]) -> None:
        super().__init__(message)
        self.steps = steps


def random_steps(
    seed: int, count: int, transactions: bool = True, conditions: bool = True
) -> list[Step]:
    """Return a random sequence of operations; the same for the same arguments.

    Parameters
    ----------
    seed : int
    count : int
    transactions, conditions : bool
        Whether to use what not every store has.
    """
    dice = random.Random(seed)

    def key() -> str:
        return dice.choice(_KEYS)

    def metadata() -> dict[str, Any]:
        return dice.choice(_METADATA)

    def data() -> bytes:
        return dice.choice(_DATA)

    def condition() -> str | None:
        return dice.choice([None, None, "new", "match", "stale"]) if conditions else None

    makers: list[Callable[[], Step]] = [
        lambda: ("set", key(), data(), metadata(), condition()),
        lambda: ("set", key(), data(), metadata(), None),
        lambda: ("set_data", key(), data(), condition()),
        lambda: ("set_metadata", key(), metadata(), condition()),
        lambda: ("update_metadata", key(), metadata(), condition()),
        lambda: ("delete", key(), condition()),
        lambda: ("from_bytes", key(), data()),
        lambda: ("set_failing", key(), data()),
        lambda: ("copy", key(), key()),
        lambda: ("move", key(), key()),
        lambda: ("multiset", [key(), key()], [(data(), metadata()), (data(), metadata())]),
        lambda: ("multiupdate_metadata", [key(), key()], [metadata(), metadata()]),
        lambda: ("get", key()),
        lambda: ("range", key(), dice.choice(_BOUNDS), dice.choice(_BOUNDS)),
        lambda: ("exists", key()),
        lambda: ("select", key(), ["n"]),
        lambda: ("query", {}),
        lambda: ("query", metadata()),
        lambda: ("glob", dice.choice(["*", "a*", "?", "[!a]*"])),
        lambda: ("keys", dice.choice(["", "a"]), dice.choice([None, "a"]), dice.choice([None, 2])),
    ]
    if transactions:
        makers += [
            lambda: ("begin",),
            lambda: ("begin",),
            lambda: ("commit",),
            lambda: ("rollback",),
        ]
    return [dice.choice(makers)() for _ in range(count)]


class _RolledBackError(Exception):
    """What ends a transaction of the sequence."""


class _Failing:
    """A stream that fails at its end."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, size: int, /) -> bytes:
        piece = self._stream.read(size)
        if not piece:
            raise EOFError("the stream fails")
        return piece


class _Runner:
    """Does steps on a store."""

    def __init__(self, store: Any, manager: EventManager) -> None:
        self.store = store
        self.events: list[tuple[Any, ...]] = []
        self.open: list[Any] = []
        self._listener = self._note
        manager.connect(StoreModificationEvent, self._listener)
        manager.connect(StoreTransactionEndEvent, self._listener)

    def _note(self, event: Any) -> None:
        if isinstance(event, StoreModificationEvent):
            self.events.append((type(event).__name__, event.key, event.metadata))
        else:
            self.events.append((type(event).__name__, event.state))

    def condition(self, key: str, kind: str | None) -> dict[str, str]:
        if kind is None:
            return {}
        if kind == "new":
            return {"if_none_match": "*"}
        if kind == "match" and self.store.exists(key):
            return {"if_match": self.store.get(key).etag}
        return {"if_match": "stale"}

    def do(self, step: Step) -> Outcome:
        self.events = []
        name, *args = step
        try:
            result = getattr(self, f"do_{name}")(*args)
        except Exception as error:
            result = type(error).__name__
        return Outcome(result, self.events)

    def do_set(self, key: str, data: bytes, metadata: dict[str, Any], kind: str | None) -> None:
        self.store.set(key, (io.BytesIO(data), metadata), **self.condition(key, kind))

    def do_set_data(self, key: str, data: bytes, kind: str | None) -> None:
        self.store.set_data(key, io.BytesIO(data), **self.condition(key, kind))

    def do_set_metadata(self, key: str, metadata: dict[str, Any], kind: str | None) -> None:
        self.store.set_metadata(key, metadata, **self.condition(key, kind))

    def do_update_metadata(self, key: str, metadata: dict[str, Any], kind: str | None) -> None:
        self.store.update_metadata(key, metadata, **self.condition(key, kind))

    def do_delete(self, key: str, kind: str | None) -> None:
        self.store.delete(key, **self.condition(key, kind))

    def do_from_bytes(self, key: str, data: bytes) -> None:
        self.store.from_bytes(key, data)

    def do_set_failing(self, key: str, data: bytes) -> None:
        self.store.set(key, (_Failing(data), {"lost": True}))

    def do_copy(self, source: str, target: str) -> None:
        self.store.copy(source, target)

    def do_move(self, source: str, target: str) -> None:
        self.store.move(source, target)

    def do_multiset(self, keys: list[str], values: list[tuple[bytes, dict[str, Any]]]) -> None:
        self.store.multiset(iter(keys), ((io.BytesIO(data), metadata) for data, metadata in values))

    def do_multiupdate_metadata(self, keys: list[str], metadatas: list[dict[str, Any]]) -> None:
        self.store.multiupdate_metadata(keys, metadatas)

    def do_get(self, key: str) -> tuple[Any, ...]:
        value = self.store.get(key)
        with value.data as stream:
            return stream.read(), value.metadata, value.size, value.created <= value.modified

    def do_range(self, key: str, start: int | None, end: int | None) -> Any:
        with self.store.get_data_range(key, start, end) as stream:
            return stream.read()

    def do_exists(self, key: str) -> Any:
        return self.store.exists(key)

    def do_select(self, key: str, names: list[str]) -> Any:
        return self.store.get_metadata(key, names)

    def do_query(self, criteria: dict[str, Any]) -> Any:
        found = sorted(self.store.query(**criteria), key=lambda item: item[0])
        assert [key for key, _ in found] == sorted(self.store.query_keys(**criteria))
        return found

    def do_glob(self, pattern: str) -> Any:
        return sorted(self.store.glob(pattern))

    def do_keys(self, prefix: str, start_after: str | None, limit: int | None) -> Any:
        return list(self.store.keys(prefix, start_after, limit))

    def do_begin(self) -> None:
        context = self.store.transaction("a sequence")
        context.__enter__()
        self.open.append(context)

    def do_commit(self) -> None:
        if self.open:
            self.open.pop().__exit__(None, None, None)

    def do_rollback(self) -> None:
        if self.open:
            error = _RolledBackError()
            self.open.pop().__exit__(_RolledBackError, error, None)

    def end(self) -> Outcome:
        """Commit what is open, and return all there is."""
        self.events = []
        while self.open:
            self.do_commit()
        return Outcome(self.do_query({}), self.events)


class _Model:
    """What the contract says a step does, on a dict of key to (data, metadata)."""

    def __init__(self) -> None:
        self.dict: dict[str, tuple[bytes, dict[str, Any]]] = {}
        #: What each open transaction goes back to: the dict, and how many events were kept.
        self.marks: list[tuple[dict[str, Any], int]] = []
        self.kept: list[tuple[Any, ...]] = []
        self.events: list[tuple[Any, ...]] = []

    def do(self, step: Step) -> Outcome:
        self.events = []
        name, *args = step
        before, count = dict(self.dict), len(self.kept)
        try:
            result = getattr(self, f"do_{name}")(*args)
        except _ModelError as error:
            result = error.args[0]
            self.dict = before
            del self.kept[count:]
            if name.startswith(("multi", "move")):
                self.events = [] if self.marks else [("StoreTransactionEndEvent", "failed")]
        else:
            if name.startswith(("multi", "move")) and not self.marks:
                self.events = [("StoreTransactionEndEvent", "done"), *self.kept]
                self.kept = []
            elif not self.marks:
                self.events += self.kept
                self.kept = []
        return Outcome(result, self.events)

    def need(self, key: str) -> tuple[bytes, dict[str, Any]]:
        if key not in self.dict:
            raise _ModelError("KeyError")
        return self.dict[key]

    def check(self, key: str, kind: str | None) -> None:
        there = key in self.dict
        if (kind == "new" and there) or kind == "stale" or (kind == "match" and not there):
            raise _ModelError("PreconditionError")

    def put(self, key: str, data: bytes, metadata: dict[str, Any]) -> None:
        kind = "StoreUpdateEvent" if key in self.dict else "StoreSetEvent"
        self.kept.append((kind, key, metadata))
        self.dict[key] = (data, metadata)

    def do_set(
        self, key: str, data: bytes, metadata: dict[str, Any], kind: str | None = None
    ) -> None:
        self.check(key, kind)
        self.put(key, data, metadata)

    def do_set_data(self, key: str, data: bytes, kind: str | None = None) -> None:
        self.check(key, kind)
        self.put(key, data, self.dict.get(key, (b"", {}))[1])

    do_from_bytes = do_set_data

    def do_set_metadata(self, key: str, metadata: dict[str, Any], kind: str | None) -> None:
        self.check(key, kind)
        self.put(key, self.dict.get(key, (b"", {}))[0], metadata)

    def do_update_metadata(
        self, key: str, metadata: dict[str, Any], kind: str | None = None
    ) -> None:
        self.check(key, kind)
        data, old = self.need(key)
        self.put(key, data, {**old, **metadata})

    def do_delete(self, key: str, kind: str | None = None) -> None:
        self.check(key, kind)
        _, metadata = self.need(key)
        del self.dict[key]
        self.kept.append(("StoreDeleteEvent", key, metadata))

    def do_set_failing(self, key: str, data: bytes) -> None:
        raise _ModelError("EOFError")

    def do_copy(self, source: str, target: str) -> None:
        self.put(target, *self.need(source))

    def do_move(self, source: str, target: str) -> None:
        value = self.need(source)
        if source != target:
            self.put(target, *value)
            self.do_delete(source)

    def do_multiset(self, keys: list[str], values: list[tuple[bytes, dict[str, Any]]]) -> None:
        for key, value in zip(keys, values, strict=True):
            self.put(key, *value)

    def do_multiupdate_metadata(self, keys: list[str], metadatas: list[dict[str, Any]]) -> None:
        for key, metadata in zip(keys, metadatas, strict=True):
            self.do_update_metadata(key, metadata)

    def do_get(self, key: str) -> tuple[Any, ...]:
        data, metadata = self.need(key)
        return data, metadata, len(data), True

    def do_range(self, key: str, start: int | None, end: int | None) -> bytes:
        return self.need(key)[0][start:end]

    def do_exists(self, key: str) -> bool:
        return key in self.dict

    def do_select(self, key: str, names: list[str]) -> dict[str, Any]:
        metadata = self.need(key)[1]
        return {name: metadata[name] for name in names if name in metadata}

    def do_query(self, criteria: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return sorted(
            (key, metadata)
            for key, (_, metadata) in self.dict.items()
            if all(
                name in metadata and _equal(metadata[name], value)
                for name, value in criteria.items()
            )
        )

    def do_glob(self, pattern: str) -> list[str]:
        from fnmatch import fnmatchcase

        return sorted(key for key in self.dict if fnmatchcase(key, pattern))

    def do_keys(self, prefix: str, start_after: str | None, limit: int | None) -> list[str]:
        keys = [key for key in self.dict if key.startswith(prefix) and key > (start_after or "")]
        return sorted(keys)[:limit]

    def do_begin(self) -> None:
        self.marks.append((dict(self.dict), len(self.kept)))

    def do_commit(self) -> None:
        if self.marks:
            self.marks.pop()
            if not self.marks:
                self.events.append(("StoreTransactionEndEvent", "done"))

    def do_rollback(self) -> None:
        if self.marks:
            self.dict, count = self.marks.pop()
            del self.kept[count:]
            if not self.marks:
                self.events.append(("StoreTransactionEndEvent", "failed"))

    def end(self) -> Outcome:
        self.events = []
        while self.marks:
            self.do_commit()
        self.events += self.kept
        return Outcome(self.do_query({}), self.events)


class _ModelError(Exception):
    """An operation fails; the argument is the name of the class of the error."""


def _equal(one: Any, other: Any) -> bool:
    # The values of _METADATA need no more than this.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def transcript(make_store: Factory, steps: Iterable[Step]) -> list[Outcome]:
    """Do steps on a new store, and return their outcomes and that of the end.

    Parameters
    ----------
    make_store : callable
        Takes an event manager and returns a new, empty store; connected and disconnected here.
    steps : iterable
    """
    manager = EventManager()
    store = make_store(manager)
    with store:
        runner = _Runner(store, manager)
        try:
            outcomes = [runner.do(step) for step in steps]
        finally:
            end = runner.end()
    return [*outcomes, end]


def expected_transcript(steps: Iterable[Step]) -> list[Outcome]:
    """Return the transcript that the contract promises."""
    model = _Model()
    outcomes = [model.do(step) for step in steps]
    return [*outcomes, model.end()]


def same(one: Any, other: Any) -> bool:
    """Whether two transcripts, or parts of them, are the same: 1, 1.0 and True are three
    results."""
    if isinstance(one, list | tuple):
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(map(same, one, other))
        )
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[name], other[name]) for name in one)
        )
    return type(one) is type(other) and bool(one == other)


def shrink(steps: list[Step], fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Return a short part of a failing sequence that fails too."""
    size = len(steps) // 2
    while size:
        start = 0
        while start < len(steps):
            shorter = steps[:start] + steps[start + size :]
            if fails(shorter):
                steps = shorter
            else:
                start += size
        size //= 2
    return steps


def check_store(make_store: Factory, seed: int, count: int = 100) -> list[Outcome]:
    """Compare a store with the model over a random sequence, and return the transcript.

    Parameters
    ----------
    make_store : callable
        As for transcript(); called again for every attempt to shorten a failing sequence.
    seed, count : int
        As for random_steps().

    Raises
    ------
    ModelMismatchError
        With the seed, and the shortest failing sequence found, as lines of Python.
    """
    with make_store(EventManager()) as store:
        info = store.info()
    steps = random_steps(seed, count, info["transactional"], info["conditional"])

    def fails(some: list[Step]) -> bool:
        return not same(transcript(make_store, some), expected_transcript(some))

    found = transcript(make_store, steps)
    if same(found, expected_transcript(steps)):
        return found
    steps = shrink(steps, fails)
    found, expected = transcript(make_store, steps), expected_transcript(steps)
    if same(found, expected):
        raise ModelMismatchError(f"seed {seed}: a failure that does not repeat", steps)
    at = next(
        i
        for i, (one, other) in enumerate(zip(found, expected, strict=True))
        if not same(one, other)
    )
    name = repr(steps[at]) if at < len(steps) else "the end"
    raise ModelMismatchError(
        f"seed {seed}, {count} steps; shortened to {len(steps)}:\n{as_python(steps)}\n"
        f"{name} gave\n  {found[at]}\nand not\n  {expected[at]}",
        steps,
    )


def as_python(steps: Iterable[Step]) -> str:
    """Return lines of Python that do steps on ``store``."""
    lines = ["import io", "transactions = []"]
    for name, *args in steps:
        if name in _TEMPLATES:
            lines.append(_TEMPLATES[name])
            continue
        call = name
        words = [repr(arg) for arg in args]
        if name in ("set", "set_data", "set_metadata", "update_metadata", "delete"):
            words = [*words[:-1], *_CONDITIONS[args[-1]].format(key=args[0]).split(" | ")]
        if name == "set":
            words[1:3] = [f"(io.BytesIO({words[1]}), {words[2]})"]
        elif name == "set_data":
            words[1] = f"io.BytesIO({words[1]})"
        elif name == "multiset":
            words[1] = "[" + ", ".join(f"(io.BytesIO({d!r}), {m!r})" for d, m in args[1]) + "]"
        elif name == "set_failing":
            lines.append(
                f"# here store.set({words[0]}, ...) with a stream that fails after {words[1]}"
            )
            continue
        elif name in ("range", "select"):
            call = {"range": "get_data_range", "select": "get_metadata"}[name]
        elif name == "query":
            words = [f"**{words[0]}"]
        line = f"store.{call}({', '.join(word for word in words if word)})"
        if name in ("query", "glob", "keys"):
            line = f"list({line})"
        if name == "get":
            line += ".data.read()"
        lines.append(_guarded(line))
    return "\n".join(lines)


_TEMPLATES = {
    "begin": "transactions.append(store.transaction()); transactions[-1].__enter__()",
    "commit": "transactions and transactions.pop().__exit__(None, None, None)",
    "rollback": "transactions and transactions.pop().__exit__(Exception, Exception(), None)",
}
_CONDITIONS = {
    None: "",
    "new": "if_none_match='*'",
    "match": "if_match=store.get({key!r}).etag if store.exists({key!r}) else 'stale'",
    "stale": "if_match='stale'",
}


def _guarded(line: str) -> str:
    return f"try: {line}\nexcept Exception as error: print(repr(error))"
