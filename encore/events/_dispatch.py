"""Listeners that something else than the emit runs: an executor, an event loop, a GUI toolkit."""

from __future__ import annotations

from _thread import get_ident

from ._listeners import RUN_COROUTINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeAlias

    from ._listeners import Call, Home, Target
    from .abstract_event_manager import BaseEvent

    # An event being handed over by one thread, and what the listener raises before that is done:
    # there is an emit to raise it from. None in place of the event if `dispatch` raises. A list,
    # because a class of its own would take longer than all the rest.
    Turn: TypeAlias = list[Any]

__all__ = ["dispatched"]


def dispatched(
    call: Call, dispatch: Any, is_coroutine_function: bool, target: Target, home: Home
) -> Call:
    """What is called instead of a listener to hand it over."""
    jobs = _Jobs(call, target, home)
    turns = jobs.turns
    # The same callable for every event: there are schedulers that replace by it.
    job = jobs.coroutine if is_coroutine_function else jobs.run
    submit = getattr(dispatch, "submit", None)

    def hand_over(event: BaseEvent) -> None:
        turn: Turn = [event]
        thread = get_ident()
        outer = turns.get(thread)
        turns[thread] = turn
        try:
            if submit is None:
                dispatch(lambda: job(event))
            else:
                submit(job, event)
        except Exception as error:
            turn[0] = None
            turn.append(error)
        finally:
            if outer is None:
                turns.pop(thread, None)
            else:
                turns[thread] = outer
        if len(turn) > 1:
            # No variable may hold an error: its traceback leads here.
            while len(turn) > 2:
                jobs.report(event, turn.pop(2))
            raise turn.pop()

    return hand_over


class _Jobs:
    """What an executor or the like is given to do."""

    def __init__(self, call: Call, target: Target, home: Home) -> None:
        self.call = call
        self.target = target
        self.home = home
        #: By thread.
        self.turns: dict[int, Turn] = {}

    def _turn(self, event: BaseEvent) -> Turn | None:
        """What hands over this event on the calling thread at this moment."""
        turn = self.turns.get(get_ident())
        return turn if turn is not None and turn[0] is event else None

    def run(self, event: BaseEvent) -> object:
        try:
            return self.call(event)
        except Exception as error:
            self.report(event, error)
            return None

    def coroutine(self, event: BaseEvent) -> object:
        turn = self._turn(event)

        def unused() -> None:
            if turn is None or turn[0] is not None:
                self.report(event, self._unused())

        return _Coroutine(self._await(event), unused, self.target() or self.call)

    async def _await(self, event: BaseEvent) -> object:
        try:
            coroutine: Any = self.call(event)
            # None if the object of a bound method is gone.
            return None if coroutine is None else await coroutine
        except Exception as error:
            self.report(event, error)
            return None

    def _unused(self) -> Exception:
        return RuntimeError(
            f"{self.target() or self.call!r} is a coroutine function, but `dispatch` did not run "
            f"the coroutine that it was given: use {RUN_COROUTINE}"
        )

    def report(self, event: BaseEvent, error: Exception) -> None:
        turn = self._turn(event)
        if turn is not None:
            turn.append(error)
            return
        # The emit is over.
        manager = self.home()
        listener = self.target() or self.call
        try:
            if manager is None:
                from .event_manager import _log

                _log(listener, event, error)
            else:
                manager._report(listener, event, error)
        finally:
            del error  # a traceback that leads here must not lead back to it


class _Coroutine:
    """A coroutine that tells if nobody runs it."""

    # asyncio and others take what has the methods of collections.abc.Coroutine. With a coroutine
    # proper there would be Python's RuntimeWarning only, about a function of this module.

    def __init__(
        self, coroutine: Coroutine[Any, Any, object], unused: Callable[[], None], listener: Call
    ) -> None:
        self._coroutine = coroutine
        self._unused: Callable[[], None] | None = unused
        # What asyncio shows of a task.
        self.__name__ = self.__qualname__ = getattr(listener, "__qualname__", repr(listener))

    def send(self, value: Any) -> Any:
        self._unused = None
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        self._unused = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._unused = None
        self._coroutine.close()

    def __await__(self) -> Any:
        self._unused = None
        return self._coroutine.__await__()

    def __del__(self) -> None:
        unused, self._unused = self._unused, None
        if unused is not None:
            self._coroutine.close()
            unused()
