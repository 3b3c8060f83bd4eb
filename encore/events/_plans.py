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
- No code of others runs under the lock, with one exception: the ``__hash__`` and ``__eq__`` of the
  values of filters, and of listeners that define their own.
- The callback of a weak reference takes no lock: it notes the dead reference in a list,
  and the next change sweeps it up.
"""

from __future__ import annotations

# threading and weakref make up most of the time that importing this package would take; these are
# the C modules they have these names from.
import os
from _thread import RLock
from _weakref import ref
from itertools import count

from ._listeners import COROUTINE, FunctionType, Listener, agrees, failing, key_of, values_at
from .abstract_event_manager import BaseEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from typing import Any, TypeAlias, TypeVar

    from ._listeners import Call, Checks, Paths, Reference
    from .event_manager import EventManager

    T = TypeVar("T")
    Bucket: TypeAlias = tuple[tuple[Listener, ...], tuple[Call, ...] | None]

__all__ = ["ListenerRegistry", "Plan", "hierarchy"]


def hierarchy(cls: type) -> tuple[type, ...]:
    """The classes whose listeners are called for events of a class."""
    mro = cls.__mro__
    if BaseEvent in mro:
        return mro[: mro.index(BaseEvent) + 1]
    return mro[:-1]


def _by_order(listener: Listener) -> tuple[float, int]:
    return listener.order


def _insert(
    listeners: tuple[Listener, ...], listener: Listener
) -> tuple[int, tuple[Listener, ...]]:
    at = len(listeners)
    # Nearly always the newest listener is the last.
    if at and listeners[-1].order > listener.order:
        from bisect import bisect_right  # takes longer to import than this module

        at = bisect_right(listeners, listener.order, key=_by_order)
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

    __slots__ = ("calls", "checked", "cls", "enabled", "hooked", "index", "listeners", "single")

    def __init__(self, cls: type, listeners: Sequence[Listener], enabled: bool) -> None:
        self.cls = cls
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
        #: The others: attribute paths, and what is found there -> listeners. The dictionaries
        #: change in place, one value at a time.
        self.index: tuple[tuple[Paths, dict[Any, Bucket]], ...] = ()
        #: What to call, where nothing but calling is to be done for any event; otherwise None.
        #: Where it is empty, emitting does nothing.
        self.calls: tuple[Call, ...] | None = None
        #: The one item of `index`, if it is about one attribute of the event and there is nothing
        #: else to be done; otherwise None.
        self.single: tuple[str, dict[Any, Bucket]] | None = None
        if enabled:
            self.listeners = tuple(listener for listener in listeners if listener.slot is None)
            self.checked = any(listener.checks for listener in self.listeners)
            for listener in listeners:
                if listener.slot is not None:
                    self._enter(listener, listener.slot)
        self._settle()

    def _settle(self) -> None:
        """Find the shortest way for an emit."""
        self.calls = self.single = None
        if not self.enabled:
            self.calls = ()
        elif self.hooked:
            pass
        elif not self.index:
            if not any(listener.checks for listener in self.listeners):
                self.calls = tuple(listener.call for listener in self.listeners)
        elif len(self.index) == 1 and not self.listeners:
            paths, buckets = self.index[0]
            if len(paths) == len(paths[0]) == 1:
                self.single = (paths[0][0], buckets)

    def _waiting_at(self, paths: Paths) -> dict[Any, Bucket] | None:
        for others, buckets in self.index:
            if others == paths:
                return buckets
        return None

    def _enter(self, listener: Listener, slot: tuple[Paths, Any]) -> bool:
        """Have a listener looked up; return whether it is by something new."""
        paths, value = slot
        buckets = self._waiting_at(paths)
        new = buckets is None
        if buckets is None:
            buckets = {}
            self.index = (*self.index, (paths, buckets))
        listeners, calls = buckets.get(value, _EMPTY)
        at, listeners = _insert(listeners, listener)
        # Listeners with further checks cannot simply be called.
        calls = None if calls is None or listener.checks else _with(calls, at, listener.call)
        buckets[value] = (listeners, calls)
        return new

    def add(self, listener: Listener) -> None:
        """Take in a listener that has been connected."""
        if not self.enabled:
            return
        if listener.slot is not None:
            if self._enter(listener, listener.slot):
                self._settle()
            return
        if listener.checks:
            self.checked = True
        at, self.listeners = _insert(self.listeners, listener)
        calls = self.calls
        if calls is None:
            self.single = None
        elif listener.checks:
            self.calls = None
        else:
            self.calls = (
                calls + (listener.call,) if at == len(calls) else _with(calls, at, listener.call)
            )

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
        self.listeners = listeners = _without(self.listeners, at)
        if self.calls is not None:
            self.calls = _without(self.calls, at)
        elif listener.checks or not listeners:
            self._settle()

    def _leave(self, listener: Listener, slot: tuple[Paths, Any]) -> None:
        paths, value = slot
        buckets = self._waiting_at(paths) or {}
        listeners, calls = buckets[value]
        at = listeners.index(listener)
        if len(listeners) > 1:
            calls = None if calls is None else _without(calls, at)
            buckets[value] = (_without(listeners, at), calls)
            return
        del buckets[value]
        if not buckets:
            self.index = tuple(item for item in self.index if item[0] != paths)
            self._settle()

    def calls_for(self, event: BaseEvent) -> Sequence[Call]:
        """What to call for an event."""
        single = self.single
        if single is not None:
            attribute, buckets = single
            try:
                bucket = buckets.get(getattr(event, attribute))
            except AttributeError:
                return ()
            except Exception:
                bucket = _UNKNOWN  # see select()
            if bucket is None:
                return ()
            if bucket[1] is not None:
                return bucket[1]
        return [listener.call for listener in self.select(event)]

    def select(self, event: BaseEvent) -> Sequence[Listener]:
        """The listeners whose filters match an event, in order.

        For a filter that cannot be compared there is one that fails.
        """
        chosen: Sequence[Listener] = self.listeners
        if self.checked:
            chosen = _passing(chosen, event)
        merged = False
        for paths, buckets in self.index:
            hits: Sequence[Listener]
            try:
                bucket = buckets.get(values_at(event, paths))
            except AttributeError:
                continue
            except Exception:
                # What the event has cannot be looked up, but it may be equal.
                waiting = [listener for others, _ in list(buckets.values()) for listener in others]
                hits = _matching(sorted(waiting, key=_by_order), event)
            else:
                if bucket is None:
                    continue
                hits = bucket[0]
                if bucket[1] is None:
                    hits = _passing(hits, event)
            merged = bool(chosen)
            chosen = [*chosen, *hits] if merged else hits
        return sorted(chosen, key=_by_order) if merged else chosen


_EMPTY: Bucket = ((), ())
_UNKNOWN: Bucket = ((), None)


def _passing(listeners: Sequence[Listener], event: BaseEvent) -> list[Listener]:
    """Those whose filters, as far as they are not looked up, match."""
    return _agreeing([(listener, listener.checks) for listener in listeners], event)


def _matching(listeners: Sequence[Listener], event: BaseEvent) -> list[Listener]:
    """Those whose whole filters match."""
    return _agreeing([(listener, listener.filter) for listener in listeners], event)


def _agreeing(candidates: list[tuple[Listener, Checks]], event: BaseEvent) -> list[Listener]:
    chosen = []
    for listener, checks in candidates:
        try:
            if agrees(event, checks):
                chosen.append(listener)
        except Exception as error:
            stand_in = failing(listener, error)
            if stand_in is not None:
                chosen.append(stand_in)
    return chosen


_MANY = 8

# A lock that another thread held at the time of a fork would stay locked in the child for ever.
_registries: dict[int, ref[ListenerRegistry]] = {}


def _remember(registry: ListenerRegistry) -> None:
    if not _registries and hasattr(os, "register_at_fork"):
        _watch_forks()
    number = id(registry)
    _registries[number] = ref(registry, lambda gone: _forget(number, gone))


def _forget(number: int, gone: ref[ListenerRegistry]) -> None:
    # Another one may be at the same place by now.
    if _registries.get(number) is gone:
        _registries.pop(number, None)


_watched: list[bool] = []


def _watch_forks() -> None:
    # Not at import, which has no effect; and once, as it cannot be undone.
    if not _watched:
        _watched.append(True)
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    from . import package_globals

    package_globals._lock = RLock()
    for reference in list(_registries.values()):
        registry = reference()
        if registry is not None:
            registry.start_again()


class ListenerRegistry:
    """The listeners of all classes of events, and the plans made from them.

    Parameters
    ----------
    manager : EventManager
        Whose listeners they are.
    """

    def __init__(self, manager: EventManager) -> None:
        #: The plans made so far. Read it without a lock; `plan` makes those that are missing.
        self.plans: dict[type, Plan] = {}
        #: References to what is gone, whose listeners `sweep` removes.
        self.dead: list[Reference] = []
        self._home = ref(manager)
        #: Held for changes.
        self.lock = RLock()
        self._listeners: dict[type, dict[Hashable, Listener]] = {}
        self._disabled: set[type] = set()
        # The blocks that disable each class for their duration.
        self._suspended: dict[type, set[object]] = {}
        # The plans that the listeners of a class are in.
        self._dependents: dict[type, tuple[Plan, ...]] = {}
        self._sequence = count()
        # Counts changes, so that one can see that another came in between.
        self._version = 0
        _remember(self)

    def start_again(self) -> None:
        """After a fork, in the middle of whatever another thread did."""
        self.lock = RLock()
        self._forget_plans()

    def connect(
        self,
        cls: type,
        func: Call,
        filter: Mapping[str, Any] | None,
        priority: float,
        once: bool,
        weak: bool | None,
        dispatch: Any,
    ) -> Listener:
        try:
            # Only NaN is neither; what has no order cannot be asked.
            if priority and not (priority < 0 or priority > 0):
                raise ValueError("the priority is not a number")
            order = (-priority, next(self._sequence))
        except TypeError:
            raise TypeError(f"the priority is a number, not {priority!r}") from None
        listener = Listener(cls, func, order, self._home)
        plain = type(func) is FunctionType and not func.__code__.co_flags & COROUTINE
        if not plain or once or weak or dispatch is not None:
            listener.configure(once, weak, dispatch, self.dead.append)
        if filter:
            listener.set_filter(filter)
        if self.dead:
            self.sweep()
        key = listener.key
        # Dropping what is replaced can run code of others: `old` keeps it until the lock is free.
        old = None
        with self.lock:
            self._version = version = self._version + 1
            # Taken before the change is made: plans that come later know of it.
            plans = self._dependents.get(cls)
            listeners = self._listeners.get(cls)
            if listeners is None:
                listeners = self._listeners[cls] = {}
            elif key in listeners:
                old = listeners.pop(key, None)
            try:
                listeners[key] = listener
                if plans is not None and old is None:
                    for plan in plans:
                        plan.add(listener)
            except BaseException:
                old = listener
                raise
            finally:
                # With a replacement patched in, an emit could see neither of the two, or both.
                if self._version != version:
                    self._forget_plans()
                elif old is not None:
                    self._forget_plans(cls)
        return listener

    def disconnect(self, cls: type, func: Call) -> None:
        key = id(func) if type(func) is FunctionType else key_of(func)
        if self.dead:
            self.sweep()
        with self.lock:
            try:
                listener = self._listeners[cls][key]
            except KeyError:
                pass
            else:
                self._remove(listener)
                return
        # Not under the lock: the repr may be anybody's.
        raise KeyError(f"{func!r} is not connected to {getattr(cls, '__name__', cls)}")

    def drop(self, listener: Listener) -> None:
        """Remove a listener, unless that has been done."""
        with self.lock:
            if self.holds(listener):
                self._remove(listener)

    def holds(self, listener: Listener) -> bool:
        """Whether a listener is connected: another one may have taken its place."""
        return self._listeners.get(listener.cls, {}).get(listener.key) is listener

    def _remove(self, listener: Listener) -> None:
        cls = listener.cls
        self._version = version = self._version + 1
        plans = self._dependents.get(cls)
        listeners = self._listeners[cls]
        # What comes in between may have disconnected it, and connected another one in its place.
        if listeners.get(listener.key) is not listener:
            return
        listeners.pop(listener.key, None)
        try:
            if plans is not None:
                for plan in plans:
                    plan.remove(listener)
        except BaseException as error:
            self._forget_plans()
            # Not in the plan yet: this came in between while it was connected.
            if not isinstance(error, (LookupError, ValueError)):
                raise
        if self._version != version:
            self._forget_plans()

    def _forget_plans(self, cls: type | None = None) -> None:
        """Drop the plans that the listeners of a class are in, or all."""
        # In this order: a plan that comes in between must not be one that changes do not reach.
        if cls is None:
            self._dependents = {}
            self.plans.clear()
            return
        version = self._version
        dropped = self._dependents.get(cls, ())
        self._dependents = {
            base: tuple(plan for plan in plans if plan not in dropped)
            for base, plans in list(self._dependents.items())
        }
        for plan in dropped:
            self.plans.pop(plan.cls, None)
        if self._version != version:
            self._forget_plans()

    def sweep(self) -> None:
        """Remove the listeners that are gone."""
        dropped = []
        with self.lock:
            # One by one they leave the plans in a time that grows with the listeners that stay.
            if len(self.dead) > _MANY:
                self._version += 1
                self._forget_plans()
            while True:
                try:
                    reference = self.dead.pop()
                except IndexError:
                    break
                listener = self._listeners.get(reference.cls, {}).get(reference.key)
                # It may have been disconnected, or replaced, in the meantime.
                if listener is not None and listener.reference is reference:
                    dropped.append(listener)
                    self._remove(listener)

    def plan(self, cls: type) -> Plan:
        """Return the plan of a class of events, which is made if need be."""
        plan = self.plans.get(cls)
        if plan is not None:
            return plan
        if not issubclass(cls, BaseEvent):
            raise TypeError(f"not a class of events: {cls!r}")
        if self.dead:
            self.sweep()
        with self.lock:
            while True:
                plan = self.plans.get(cls)
                if plan is not None:
                    return plan
                self._version = version = self._version + 1
                classes = hierarchy(cls)
                plan = Plan(cls, self._sorted(classes), self.is_enabled(cls))
                for base in classes:
                    self._dependents[base] = (*self._dependents.get(base, ()), plan)
                self.plans[cls] = plan
                if self._version != version:
                    self._forget_plans()

    def _sorted(self, classes: Sequence[type]) -> list[Listener]:
        listeners: list[Listener] = []
        for cls in classes:
            listeners += self._listeners.get(cls, {}).values()
        listeners.sort(key=_by_order)
        return listeners

    def live(self, classes: Sequence[type]) -> list[tuple[Listener, Call]]:
        """The listeners of some classes with what they call, in order."""
        with self.lock:
            listeners = self._sorted(classes)
        targets = [(listener, listener.target()) for listener in listeners]
        return [(listener, target) for listener, target in targets if target is not None]

    def add_class(self, cls: type) -> bool:
        """Make a class known; False if it was."""
        with self.lock:
            if cls in self._listeners:
                return False
            self._listeners[cls] = {}
            return True

    def classes(self) -> list[type]:
        """The known classes."""
        with self.lock:
            return list(self._listeners)

    def set_enabled(self, cls: type, enabled: bool) -> None:
        """Enable or disable a class until it is changed again."""
        with self.lock:
            self._version += 1
            if enabled:
                self._disabled.discard(cls)
            else:
                self._listeners.setdefault(cls, {})
                self._disabled.add(cls)
            self._forget_plans(cls)

    def suspend(self, cls: type, block: object, suspended: bool) -> None:
        """Have a block disable a class, or no longer."""
        with self.lock:
            self._version += 1
            blocks = self._suspended.setdefault(cls, set())
            if suspended:
                blocks.add(block)
            else:
                blocks.discard(block)
            self._forget_plans(cls)

    def is_enabled_itself(self, cls: type) -> bool:
        return cls not in self._disabled and not self._suspended.get(cls)

    def is_enabled(self, cls: type) -> bool:
        return all(map(self.is_enabled_itself, hierarchy(cls)))
