"""Who is called for an event, in which order.

How it works:

- Each class keeps the listeners connected to it in a dictionary: this is the truth.
  Everything else can be thrown away and is made again from it.
- A plan is what an emit reads, without a lock: for one class of events the listeners of
  its whole hierarchy, sorted. What a plan holds is immutable and replaced whole. It is
  made when the first event of the class comes, and patched when listeners come and go.
- A listener whose filter has an attribute that can be looked up in a dictionary waits
  under its value, so listeners that wait for other values cost an emit nothing.
- Changes take a lock. Garbage collection can run any code in the thread that holds it,
  connect() and disconnect() included, so the lock is re-entrant, and a change that finds
  another one has come in between throws all plans away rather than finish patching.
- The callback of a weak reference takes no lock: it notes the dead reference in a list,
  and the next change sweeps it up.
"""

from __future__ import annotations

# weakref, threading and types make up most of the time that importing this package would
# take; these are the C modules the first two have these names from.
from _thread import RLock
from _weakref import ref
from itertools import count

from .abstract_event_manager import BaseEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
    from types import MethodType
    from typing import Any, TypeAlias

    Call: TypeAlias = Callable[[Any], object]
    Report: TypeAlias = Callable[["Listener", BaseEvent], None]
else:
    MethodType = type(BaseEvent().mark_as_handled)

__all__ = ["Listener", "ListenerRegistry", "Plan", "hierarchy"]


def hierarchy(cls: type) -> tuple[type, ...]:
    """The classes whose listeners are called for events of a class."""
    mro = cls.__mro__
    if BaseEvent in mro:
        return mro[: mro.index(BaseEvent) + 1]
    return mro[:-1]


def _listener_key(func: Call) -> Hashable:
    """What tells listeners apart without keeping the object of a bound method alive."""
    if type(func) is MethodType:
        # Methods are equal if their objects are identical and their functions equal.
        return (id(func.__self__), func.__func__)
    try:
        hash(func)
    except TypeError:
        return id(func)
    return func


class _MethodRef(ref["Any"]):
    """A weak reference to the object of a bound method, which knows whose it is."""

    __slots__ = ("cls", "key")

    cls: type
    key: Hashable


def _weak_call(method_ref: _MethodRef, func: Callable[..., object]) -> Call:
    # A closure: calling one is faster than calling an object that has __call__.
    def call(event: Any) -> object:
        obj = method_ref()
        return None if obj is None else func(obj, event)

    return call


class Listener:
    """One connection of a callable to a class of events."""

    __slots__ = ("call", "checks", "func", "key", "order", "ref", "slot")

    def __init__(
        self,
        cls: type,
        func: Call,
        key: Hashable,
        filter: Mapping[str, Any] | None,
        order: tuple[int, int],
        on_death: Callable[[_MethodRef], None],
    ) -> None:
        self.key = key
        #: Sorts listeners into the order in which they are called.
        self.order = order
        #: The function to call: the listener itself, or a closure over a weak reference.
        self.call = func
        #: The listener, or the function of a weakly held bound method.
        self.func = func
        self.ref: _MethodRef | None = None
        if type(func) is MethodType:
            try:
                method_ref = _MethodRef(func.__self__, on_death)
            except TypeError:
                pass  # an object without weak references: held like everything else
            else:
                method_ref.cls = cls
                method_ref.key = key
                self.ref = method_ref
                self.func = func.__func__
                self.call = _weak_call(method_ref, func.__func__)
        #: The attribute and the value to find the listener under, or None.
        self.slot: tuple[str, Any] | None = None
        #: The rest of the filter: attribute paths and values, compared one by one.
        self.checks: tuple[tuple[tuple[str, ...], Any], ...] = ()
        if filter:
            self._split(filter)

    def _split(self, filter: Mapping[str, Any]) -> None:
        checks = []
        for name, value in filter.items():
            if not isinstance(name, str):
                raise TypeError(f"a filter's keys are names of attributes, not {name!r}")
            path = tuple(name.split("."))
            if self.slot is None and len(path) == 1 and _can_be_looked_up(value):
                self.slot = (name, value)
            else:
                checks.append((path, value))
        self.checks = tuple(checks)

    def target(self) -> Call | None:
        """The listener as it was connected, None if its object is gone."""
        if self.ref is None:
            return self.func
        obj = self.ref()
        return None if obj is None else MethodType(self.func, obj)

    def passes(self, event: BaseEvent) -> bool:
        """Compare the part of the filter that is not looked up."""
        return all(_equals(event, path, value) for path, value in self.checks)

    def matches(self, event: BaseEvent) -> bool:
        """Compare the whole filter."""
        slot = self.slot
        return (slot is None or _equals(event, (slot[0],), slot[1])) and self.passes(event)


def _can_be_looked_up(value: Any) -> bool:
    """Whether a dictionary finds a value exactly when == does."""
    try:
        hash(value)
        # NaN is found, because it is identical, but equals nothing.
        return bool(value == value)
    except Exception:
        return False


def _equals(event: BaseEvent, path: tuple[str, ...], value: Any) -> bool:
    found: Any = event
    try:
        for name in path:
            found = getattr(found, name)
    except AttributeError:
        return False
    return bool(found == value)


def _by_order(listener: Listener) -> tuple[int, int]:
    return listener.order


def _insert(
    listeners: tuple[Listener, ...], listener: Listener
) -> tuple[int, tuple[Listener, ...]]:
    # From the end: nearly always the newest listener is the last.
    at = len(listeners)
    while at and listeners[at - 1].order > listener.order:
        at -= 1
    return at, (*listeners[:at], listener, *listeners[at:])


class Plan:
    """What happens when an event of one class is emitted."""

    __slots__ = ("calls", "enabled", "hooked", "index", "listeners", "silent")

    def __init__(self, cls: type, listeners: Sequence[Listener], enabled: bool) -> None:
        self.enabled = enabled
        #: Whether the class has hooks to be called before and after.
        self.hooked = (
            cls.pre_emit is not BaseEvent.pre_emit  # type: ignore[attr-defined]
            or cls.post_emit is not BaseEvent.post_emit  # type: ignore[attr-defined]
        )
        #: The listeners that are not looked up, in order.
        self.listeners: tuple[Listener, ...] = ()
        #: The others: attribute, and value -> listeners in order. The dictionaries change in
        #: place, one value at a time.
        self.index: tuple[tuple[str, dict[Any, tuple[Listener, ...]]], ...] = ()
        #: What to call where nothing but calling is to be done, otherwise None.
        self.calls: tuple[Call, ...] | None = None
        #: Whether nothing is to be done at all.
        self.silent = False
        if enabled:
            self.listeners = tuple(listener for listener in listeners if listener.slot is None)
            for listener in listeners:
                if listener.slot is not None:
                    self._enter(listener, listener.slot)
        self._settle()

    def _settle(self) -> None:
        """Find out how little emitting can do."""
        if not self.enabled:
            self.calls = ()
            self.silent = True
            return
        simple = not (
            self.hooked or self.index or any(listener.checks for listener in self.listeners)
        )
        self.calls = tuple(listener.call for listener in self.listeners) if simple else None
        self.silent = self.calls == ()

    def _enter(self, listener: Listener, slot: tuple[str, Any]) -> None:
        attribute, value = slot
        buckets = next((buckets for name, buckets in self.index if name == attribute), None)
        if buckets is None:
            buckets = {}
            self.index = (*self.index, (attribute, buckets))
        buckets[value] = _insert(buckets.get(value, ()), listener)[1]

    def add(self, listener: Listener) -> None:
        """Take in a listener that has been connected."""
        if not self.enabled:
            return
        calls = self.calls
        if listener.slot is not None:
            self._enter(listener, listener.slot)
            self.calls = None
        else:
            at, self.listeners = _insert(self.listeners, listener)
            if listener.checks:
                self.calls = None
            elif calls is not None:
                self.calls = (*calls[:at], listener.call, *calls[at:])
        self.silent = False

    def remove(self, listener: Listener) -> None:
        """Leave out a listener that has been disconnected."""
        if not self.enabled:
            return
        if listener.slot is not None:
            self._leave(listener, *listener.slot)
            return
        at = self.listeners.index(listener)
        self.listeners = self.listeners[:at] + self.listeners[at + 1 :]
        calls = self.calls
        if calls is not None:
            self.calls = calls = calls[:at] + calls[at + 1 :]
            self.silent = not calls
        elif listener.checks:
            self._settle()

    def _leave(self, listener: Listener, attribute: str, value: Any) -> None:
        buckets = next(buckets for name, buckets in self.index if name == attribute)
        rest = tuple(other for other in buckets[value] if other is not listener)
        if rest:
            buckets[value] = rest
            return
        del buckets[value]
        if not buckets:
            self.index = tuple(item for item in self.index if item[0] != attribute)
            self._settle()

    def select(self, event: BaseEvent, report: Report) -> Sequence[Listener]:
        """The listeners whose filters match an event, in order.

        A filter that cannot be compared does not match, and is reported.
        """
        chosen: Sequence[Listener] = self.listeners
        if any(listener.checks for listener in chosen):
            chosen = _passing(chosen, event, report)
        merged = False
        for attribute, buckets in self.index:
            try:
                found = buckets.get(getattr(event, attribute))
            except AttributeError:
                continue
            except Exception:
                # The value of the event cannot be looked up, but it may be equal.
                waiting = [listener for bucket in list(buckets.values()) for listener in bucket]
                found = tuple(_matching(waiting, event, report))
            if not found:
                continue
            hits: Sequence[Listener] = found
            if any(listener.checks for listener in found):
                hits = _passing(found, event, report)
            merged = bool(chosen)
            chosen = [*chosen, *hits] if chosen else hits
        return sorted(chosen, key=_by_order) if merged else chosen


def _passing(
    listeners: Sequence[Listener], event: BaseEvent, report: Report
) -> list[Listener]:
    chosen = []
    for listener in listeners:
        try:
            if listener.passes(event):
                chosen.append(listener)
        except Exception:
            report(listener, event)
    return chosen


def _matching(
    listeners: Sequence[Listener], event: BaseEvent, report: Report
) -> Iterator[Listener]:
    for listener in sorted(listeners, key=_by_order):
        try:
            if listener.matches(event):
                yield listener
        except Exception:
            report(listener, event)


class ListenerRegistry:
    """The listeners of all classes of events, and the plans made from them."""

    def __init__(self) -> None:
        #: The plans made so far. Read it without a lock; `plan` makes those that are missing.
        self.plans: dict[type, Plan] = {}
        self._lock = RLock()
        self._listeners: dict[type, dict[Hashable, Listener]] = {}
        self._disabled: set[type] = set()
        # The classes whose plans a class has a part in.
        self._dependents: dict[type, list[type]] = {}
        #: References to objects that are gone, whose listeners `sweep` removes.
        self.dead: list[_MethodRef] = []
        self._sequence = count()
        # Counts changes, so that one can see that another came in between.
        self._version = 0

    def connect(
        self, cls: type, func: Call, filter: Mapping[str, Any] | None, priority: int
    ) -> None:
        key = _listener_key(func)
        listener = Listener(
            cls, func, key, filter, (-priority, next(self._sequence)), self.dead.append
        )
        if self.dead:
            self.sweep()
        # What a change drops is kept until the lock is released (here by `old`): dropping it
        # can run code of others.
        old = None
        with self._lock:
            self._version = version = self._version + 1
            complete = False
            try:
                listeners = self._listeners.get(cls)
                if listeners is None:
                    listeners = self._listeners[cls] = {}
                old = listeners.pop(key, None)
                listeners[key] = listener
                if old is None:
                    for dependent in self._dependents.get(cls, ()):
                        self.plans[dependent].add(listener)
                    complete = True
                # Otherwise an emit could see neither of the two, or both.
            finally:
                if not complete or self._version != version:
                    self._forget_plans()

    def disconnect(self, cls: type, func: Call) -> None:
        key = _listener_key(func)
        if self.dead:
            self.sweep()
        with self._lock:
            listener = self._listeners.get(cls, {}).get(key)
            if listener is None:
                raise KeyError(func)
            self._remove(cls, listener)

    def _remove(self, cls: type, listener: Listener) -> None:
        self._version = version = self._version + 1
        complete = False
        try:
            del self._listeners[cls][listener.key]
            for dependent in self._dependents.get(cls, ()):
                self.plans[dependent].remove(listener)
            complete = True
        finally:
            if not complete or self._version != version:
                self._forget_plans()

    def _forget_plans(self) -> None:
        self.plans.clear()
        self._dependents = {}

    def sweep(self) -> None:
        """Remove the listeners whose objects are gone."""
        dropped = []
        with self._lock:
            while self.dead:
                method_ref = self.dead.pop()
                listener = self._listeners.get(method_ref.cls, {}).get(method_ref.key)
                # It may have been disconnected, or replaced, in the meantime.
                if listener is not None and listener.ref is method_ref:
                    dropped.append(listener)
                    self._remove(method_ref.cls, listener)

    def plan(self, cls: type) -> Plan:
        """Return the plan of a class of events, which is made if need be."""
        if not issubclass(cls, BaseEvent):
            raise TypeError(f"not a class of events: {cls!r}")
        if self.dead:
            self.sweep()
        with self._lock:
            while True:
                version = self._version
                plan = self.plans.get(cls)
                if plan is not None:
                    return plan
                classes = hierarchy(cls)
                plan = Plan(cls, self._sorted(classes), self.is_enabled(cls))
                for base in classes:
                    self._dependents.setdefault(base, []).append(cls)
                if self._version == version:
                    self.plans[cls] = plan
                    return plan
                self._forget_plans()

    def _sorted(self, classes: Sequence[type]) -> list[Listener]:
        listeners: list[Listener] = []
        for cls in classes:
            listeners += self._listeners.get(cls, {}).values()
        listeners.sort(key=_by_order)
        return listeners

    def live(self, classes: Sequence[type]) -> list[tuple[Listener, Call]]:
        """The listeners of some classes with what they call, in order."""
        with self._lock:
            listeners = self._sorted(classes)
        targets = [(listener, listener.target()) for listener in listeners]
        return [(listener, target) for listener, target in targets if target is not None]

    def add_class(self, cls: type) -> bool:
        """Make a class known; False if it was."""
        with self._lock:
            if cls in self._listeners:
                return False
            self._listeners[cls] = {}
            return True

    def classes(self) -> list[type]:
        """The known classes."""
        with self._lock:
            return list(self._listeners)

    def set_enabled(self, cls: type, enabled: bool) -> None:
        with self._lock:
            self._version += 1
            if enabled:
                self._disabled.discard(cls)
            else:
                self._listeners.setdefault(cls, {})
                self._disabled.add(cls)
            self._forget_plans()

    def is_enabled_itself(self, cls: type) -> bool:
        return cls not in self._disabled

    def is_enabled(self, cls: type) -> bool:
        return self._disabled.isdisjoint(hierarchy(cls))
