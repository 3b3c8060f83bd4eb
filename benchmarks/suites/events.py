"""Events.

Listeners do nothing, so that what is left is the manager. What is emitted is made beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from benchmarks.suite import Row, both, loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from benchmarks.suite import Measure, Setup


class Plain:
    """An event without a manager."""

    def __init__(self, source: object = None, **kwargs: object) -> None:
        self.source = source
        self.__dict__.update(kwargs)


class Bound:
    def listen(self, event: object) -> None:
        pass


def listeners(count: int) -> list[Callable[[Any], None]]:
    return [lambda event: None for _ in range(count)]


@dataclass(frozen=True)
class Library:
    """What every one of them can do, in its own words.

    The peers have no classes of events: one signal, or one name, stands for the class.
    """

    make: Callable[[], tuple[Any, Any]]
    connect: str
    disconnect: str
    emit: str

    def names(self, listeners: list[Callable[[Any], None]]) -> dict[str, Any]:
        """What the statements need, with these listeners connected, and kept alive."""
        m, event = self.make()
        names = {"m": m, "event": event, "cls": type(event), "kept": listeners}
        for f in listeners:
            loop(self.connect, f=f, **names)(1)
        return names

    def emitting(self, count: int) -> Measure:
        return loop(self.emit, **self.names(listeners(count)))

    def emitting_to_bound(self) -> Measure:
        return loop(self.emit, **self.names([Bound().listen]))

    def connecting(self, others: int, emit: bool = False) -> Measure:
        steps = [self.connect, *([self.emit] if emit else []), self.disconnect]
        return loop("; ".join(steps), f=listeners(1)[0], **self.names(listeners(others)))


def make_encore() -> tuple[Any, Any]:
    from encore.events.api import BaseEvent, EventManager

    class Event(BaseEvent):
        pass

    return EventManager(), Event(None, name="a", number=1)


ENCORE = Library(make_encore, "m.connect(cls, f)", "m.disconnect(cls, f)", "m.emit(event)")
PEERS = {
    "blinker": Library(
        lambda: (import_module("blinker").Signal(), Plain()),
        *("m.connect(f)", "m.disconnect(f)", "m.send(event)"),
    ),
    "psygnal": Library(
        lambda: (import_module("psygnal").SignalInstance((object,)), Plain()),
        *("m.connect(f)", "m.disconnect(f)", "m.emit(event)"),
    ),
    "pyee": Library(
        lambda: (import_module("pyee").EventEmitter(), Plain()),
        *("m.on('event', f)", "m.remove_listener('event', f)", "m.emit('event', event)"),
    ),
}


def everybody(method: Callable[..., Measure], *args: object) -> dict[str, Setup]:
    peers: dict[str, Setup] = {n: partial(method, peer, *args) for n, peer in PEERS.items()}
    return {**both(partial(method, ENCORE, *args)), **peers}


def construct() -> Measure:
    return loop("Event(None, name='a')", Event=type(make_encore()[1]))


def filtered(count: int, first: int) -> Measure:
    manager, event = make_encore()
    for number, listener in enumerate(listeners(count), first):
        manager.connect(type(event), listener, filter={"number": number})
    return loop(ENCORE.emit, m=manager, event=event)


def named(count: int) -> Measure:
    """What pyee has instead of filters."""
    emitter = import_module("pyee").EventEmitter()
    for number, listener in enumerate(listeners(count)):
        emitter.on(str(number), listener)
    return loop("m.emit('1', event)", m=emitter, event=Plain())


def hierarchy() -> Measure:
    manager, event = make_encore()
    cls = type(event)
    for number, listener in enumerate(listeners(5)):
        cls = type("Event", (cls,), {}) if number else cls
        manager.connect(cls, listener)
    return loop(ENCORE.emit, m=manager, event=cls(None, name="a"))


def progress(listening: bool) -> Measure:
    from encore.events.api import EventManager, ProgressManager, ProgressStepEvent

    manager = EventManager()
    if listening:
        manager.connect(ProgressStepEvent, listeners(1)[0])
    step = ProgressManager(event_manager=manager, message="Reading", steps=1000)
    step.start()
    return loop("step('Reading', 1)", step=step)


class Counter:
    """Counts steps, and tells of each what the events of progress tell."""

    def __init__(self, listener: Callable[[Any], None] | None) -> None:
        self.count = 0
        self.listener = listener

    def __call__(self, message: str, step: int) -> None:
        self.count += 1
        if self.listener is not None:
            self.listener({"message": message, "step": step})


def limit(statement: str, count: int) -> Measure:
    """Measure a statement that may use that many functions."""
    from threading import Lock
    from weakref import ref

    bound, functions = Bound(), listeners(count)
    names = {
        "Event": Plain,
        "event": Plain(number=1),
        "f": listeners(1)[0],
        "functions": tuple(functions),
        "table": dict(enumerate(functions)),
        "connected": dict.fromkeys(functions),
        "lock": Lock(),
        "bound": bound,
        "listen": Bound.listen,
        "target": ref(bound),
        "step": Counter(functions[0] if functions else None),
    }
    return loop(statement, **names)


def row(
    name: str,
    setups: dict[str, Setup],
    does: str,
    statement: str,
    count: int = 1,
    base: str | None = None,
    **goals: float,
) -> Row:
    """A row whose limit does that statement. Its goals are none if it is its own base."""
    setups = {**setups, "limit": partial(limit, statement, count)}
    return Row(name, setups, goals if base != name else {}, does, base if base != name else None)


_LOOP = "for g in functions: g(event)"
_CONNECT = "with lock: connected[f] = None\nwith lock: del connected[f]"
_CONNECT_AND_EMIT = """\
with lock: connected[f] = None; plan = tuple(connected)
for g in plan: g(event)
with lock: del connected[f]; plan = tuple(connected)"""
_STEP = "step('Reading', 1)"
_NO_MATCH = "emit, {} listeners whose filter does not match"
_OTHERS = "connect and disconnect, {} others connected"

emitting, connecting = Library.emitting, Library.connecting
many: dict[str, Setup] = {**both(partial(filtered, 1000, 1)), "pyee": partial(named, 1000)}
weakly = everybody(Library.emitting_to_bound)
del weakly["pyee"]  # which holds it strongly
listening, unheard = both(partial(progress, True)), both(partial(progress, False))
ROWS = [
    row("construct an event", both(construct), "a plain class", "Event(None, name='a')", S=1.3),
    row("emit, nobody listens", everybody(emitting, 0), "a call", "f(event)", S=10, L=2.5),
    row("emit, 1 listener", everybody(emitting, 1), "a loop", _LOOP, S=12, L=2.6),
    row("emit, 10 listeners", everybody(emitting, 10), "a loop", _LOOP, 10, S=5, L=2.1),
    row(
        "emit, 1000 listeners filtered on one attribute, 1 matches",
        *(many, "a dict", "table[event.number](event)", 1000),
        S=1000,
    ),
    row(
        "emit, a listener on each of 5 levels of classes", both(hierarchy), "a loop", _LOOP, 5, S=14
    ),
    row(
        "emit, a bound method held weakly",
        *(weakly, "a reference, a call", "listen(target(), event)"),
        S=11,
    ),
    row(
        "connect and disconnect", everybody(connecting, 0), "a dict and a lock", _CONNECT, 0, S=2.5
    ),
    row(
        "connect, emit, disconnect, 100 others connected",
        *(everybody(connecting, 100, True), "a dict, a lock, a loop", _CONNECT_AND_EMIT, 100),
        S=2,
    ),
    row("progress step, 1 listener", listening, "a count, a dict, a call", _STEP, 1, S=4.5),
    row("progress step, nobody listens", unheard, "a count", _STEP, 0, S=9.5),
    *(
        row(
            _NO_MATCH.format(n),
            *(both(partial(filtered, n, 2)), "a dict", "table.get(-1)", n, _NO_MATCH.format(10)),
            G=1.5,
        )
        for n in (10, 1000, 100_000)
    ),
    *(
        row(
            _OTHERS.format(n),
            *(both(partial(connecting, ENCORE, n)), "a dict and a lock", _CONNECT, n),
            base=_OTHERS.format(10),
        )
        for n in (10, 1000, 10_000)
    ),
]
