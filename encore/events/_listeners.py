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
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from types import MethodType
    from typing import Any, TypeAlias, TypeVar

    T = TypeVar("T")
    Call: TypeAlias = Callable[[Any], object]
    OnDeath: TypeAlias = Callable[["_MethodRef"], None]
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

    # Most listeners have none of these, and making a listener should cost little.

    #: To the object of a weakly held bound method, otherwise None.
    ref: _MethodRef | None = None
    #: The attribute and the value to find the listener under, or None.
    slot: tuple[str, Any] | None = None
    #: The rest of the filter: attribute paths and values, compared one by one.
    checks: tuple[tuple[tuple[str, ...], Any], ...] = ()

    def __init__(self, func: Call, key: Hashable, order: tuple[int, int]) -> None:
        #: The listener, or the function of a weakly held bound method.
        self.func = func
        #: What is called: the listener itself, or a closure over a weak reference.
        self.call = func
        self.key = key
        #: Sorts listeners into the order in which they are called.
        self.order = order

    def hold_weakly(self, method: MethodType, cls: type, on_death: OnDeath) -> None:
        """Keep the function of a bound method only, and a weak reference to its object."""
        try:
            method_ref = _MethodRef(method.__self__, on_death)
        except TypeError:
            return  # an object without weak references: held like everything else
        method_ref.cls = cls
        method_ref.key = self.key
        self.ref = method_ref
        self.func = method.__func__
        self.call = _weak_call(method_ref, method.__func__)

    def set_filter(self, filter: Mapping[str, Any]) -> None:
        """Find a part of the filter to look up; the rest is compared."""
        checks = []
        for name, value in filter.items():
            if not isinstance(name, str):
                raise TypeError(f"a filter's keys are names of attributes, not {name!r}")
            if self.slot is None and "." not in name and _can_be_looked_up(value):
                self.slot = (name, value)
            else:
                checks.append((tuple(name.split(".")), value))
        if checks:
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
    return at, _with(listeners, at, listener)


def _with(items: tuple[T, ...], at: int, item: T) -> tuple[T, ...]:
    # Adding is several times faster than unpacking where there are many.
    if at == len(items):
        return items + (item,)
    return items[:at] + (item,) + items[at:]


def _without(items: tuple[T, ...], at: int) -> tuple[T, ...]:
    return items[:at] + items[at + 1 :] if at + 1 < len(items) else items[:at]


class Plan:
    """What happens when an event of one class is emitted."""

    __slots__ = ("calls", "checked", "enabled", "hooked", "index", "listeners", "silent")

    def __init__(self, cls: type, listeners: Sequence[Listener], enabled: bool) -> None:
        self.enabled = enabled
        #: Whether the class has hooks to be called before and after.
        self.hooked = (
            cls.pre_emit is not BaseEvent.pre_emit  # type: ignore[attr-defined]
            or cls.post_emit is not BaseEvent.post_emit  # type: ignore[attr-defined]
        )
        #: The listeners that are not looked up, in order.
        self.listeners: tuple[Listener, ...] = ()
        #: Whether some of these may have filters all the same. Once true it stays so: an emit
        #: reads it after `listeners`, and must not find it false for listeners of before.
        self.checked = False
        #: The others: attribute, and value -> listeners in order. The dictionaries change in
        #: place, one value at a time.
        self.index: tuple[tuple[str, dict[Any, tuple[Listener, ...]]], ...] = ()
        #: What to call where nothing but calling is to be done, otherwise None.
        self.calls: tuple[Call, ...] | None = None
        #: Whether nothing is to be done at all.
        self.silent = False
        if enabled:
            self.listeners = tuple(listener for listener in listeners if listener.slot is None)
            self.checked = any(listener.checks for listener in self.listeners)
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
        checked = any(listener.checks for listener in self.listeners)
        simple = not (self.hooked or self.index or checked)
        self.calls = tuple(listener.call for listener in self.listeners) if simple else None
        self.silent = self.calls == ()

    def _waiting_on(self, attribute: str) -> dict[Any, tuple[Listener, ...]] | None:
        for name, buckets in self.index:
            if name == attribute:
                return buckets
        return None

    def _enter(self, listener: Listener, slot: tuple[str, Any]) -> None:
        attribute, value = slot
        buckets = self._waiting_on(attribute)
        if buckets is None:
            buckets = {}
            self.index = (*self.index, (attribute, buckets))
        buckets[value] = _insert(buckets.get(value, ()), listener)[1]

    def add(self, listener: Listener) -> None:
        """Take in a listener that has been connected."""
        if not self.enabled:
            return
        if listener.slot is not None:
            self._enter(listener, listener.slot)
            self.calls = None
        else:
            if listener.checks:
                self.checked = True
                self.calls = None
            at, self.listeners = _insert(self.listeners, listener)
            if self.calls is not None:
                self.calls = _with(self.calls, at, listener.call)
        self.silent = False

    def remove(self, listener: Listener) -> None:
        """Leave out a listener that has been disconnected."""
        if not self.enabled:
            return
        if listener.slot is not None:
            self._leave(listener, listener.slot)
            return
        # Often the newest listener is the first to go.
        last = len(self.listeners) - 1
        newest = last >= 0 and self.listeners[last] is listener
        at = last if newest else self.listeners.index(listener)
        self.listeners = _without(self.listeners, at)
        calls = self.calls
        if calls is not None:
            self.calls = calls = _without(calls, at)
            self.silent = not calls
        elif listener.checks:
            self._settle()

    def _leave(self, listener: Listener, slot: tuple[str, Any]) -> None:
        attribute, value = slot
        buckets = self._waiting_on(attribute)
        assert buckets is not None
        bucket = buckets[value]
        at = bucket.index(listener)
        if len(bucket) > 1:
            buckets[value] = _without(bucket, at)
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
        if self.checked:
            chosen = _passing(chosen, event, report)
        merged = False
        for attribute, buckets in self.index:
            hits: Sequence[Listener] | None
            try:
                hits = buckets.get(getattr(event, attribute))
            except AttributeError:
                continue
            except Exception:
                # The value of the event cannot be looked up, but it may be equal.
                waiting = [listener for bucket in list(buckets.values()) for listener in bucket]
                hits = _matching(waiting, event, report)
            else:
                if hits is None:
                    continue
                for listener in hits:
                    if listener.checks:
                        hits = _passing(hits, event, report)
                        break
            merged = bool(chosen)
            chosen = [*chosen, *hits] if merged else hits
        return sorted(chosen, key=_by_order) if merged else chosen


def _passing(listeners: Sequence[Listener], event: BaseEvent, report: Report) -> list[Listener]:
    chosen = []
    for listener in listeners:
        try:
            if not listener.checks or listener.passes(event):
                chosen.append(listener)
        except Exception:
            report(listener, event)
    return chosen


def _matching(listeners: Sequence[Listener], event: BaseEvent, report: Report) -> list[Listener]:
    chosen = []
    for listener in sorted(listeners, key=_by_order):
        try:
            if listener.matches(event):
                chosen.append(listener)
        except Exception:
            report(listener, event)
    return chosen


class ListenerRegistry:
    """The listeners of all classes of events, and the plans made from them."""

    def __init__(self) -> None:
        #: The plans made so far. Read it without a lock; `plan` makes those that are missing.
        self.plans: dict[type, Plan] = {}
        self._lock = RLock()
        self._listeners: dict[type, dict[Hashable, Listener]] = {}
        self._disabled: set[type] = set()
        # The classes whose plans a class has a part in.
        self._dependents: dict[type, dict[type, None]] = {}
        #: References to objects that are gone, whose listeners `sweep` removes.
        self.dead: list[_MethodRef] = []
        self._sequence = count()
        # Counts changes, so that one can see that another came in between.
        self._version = 0

    def connect(
        self, cls: type, func: Call, filter: Mapping[str, Any] | None, priority: int
    ) -> None:
        key = _listener_key(func)
        listener = Listener(func, key, (-priority, next(self._sequence)))
        if type(func) is MethodType:
            listener.hold_weakly(func, cls, self.dead.append)
        if filter:
            listener.set_filter(filter)
        if self.dead:
            self.sweep()
        # Dropping what is replaced can run code of others: `old` keeps it until the lock is free.
        old = None
        with self._lock:
            self._version = version = self._version + 1
            plans = self._plans_with(cls) if cls in self._dependents else ()
            complete = False
            try:
                listeners = self._listeners.get(cls)
                if listeners is None:
                    listeners = self._listeners[cls] = {}
                elif key in listeners:
                    old = listeners.pop(key, None)
                listeners[key] = listener
                # With a replacement patched in, an emit could see neither of the two, or both.
                if old is None:
                    for plan in plans:
                        plan.add(listener)
                    complete = True
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
        plans = self._plans_with(cls) if cls in self._dependents else ()
        complete = False
        try:
            self._listeners[cls].pop(listener.key, None)
            for plan in plans:
                plan.remove(listener)
            complete = True
        except Exception:
            # A change that came in between has removed it already.
            if self._version == version:
                raise
        finally:
            if not complete or self._version != version:
                self._forget_plans()

    def _plans_with(self, cls: type) -> list[Plan]:
        # Taken before a change is made: plans that come later know of it.
        plans = map(self.plans.get, tuple(self._dependents.get(cls, ())))
        return [plan for plan in plans if plan is not None]

    def _forget_plans(self) -> None:
        self.plans.clear()
        self._dependents = {}

    def sweep(self) -> None:
        """Remove the listeners whose objects are gone."""
        dropped = []
        with self._lock:
            while True:
                try:
                    method_ref = self.dead.pop()
                except IndexError:
                    break
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
                plan = self.plans.get(cls)
                if plan is not None:
                    return plan
                self._version = version = self._version + 1
                classes = hierarchy(cls)
                plan = Plan(cls, self._sorted(classes), self.is_enabled(cls))
                for base in classes:
                    self._dependents.setdefault(base, {})[cls] = None
                if self._version == version:
                    self.plans[cls] = plan

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
