"""Events at regular intervals, for what has to be done again and again."""

from __future__ import annotations

from time import monotonic

from .abstract_event_manager import BaseEvent
from .package_globals import get_event_manager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Event, Thread
    from typing import Literal, TypeAlias

    from .abstract_event_manager import BaseEventManager

    State: TypeAlias = Literal["waiting", "running", "paused", "stopped"]

__all__ = ["Heartbeat", "HeartbeatEvent"]

_STATES = ("waiting", "running", "paused", "stopped")


class HeartbeatEvent(BaseEvent):
    """One beat.

    Attributes
    ----------
    source : Heartbeat
        The heartbeat.
    time : float
        When the beat happened, in seconds of the clock of the heartbeat.
    frame : int
        The number of the beat, from 0.
    interval : float
        The seconds between two beats, as they should be.
    """

    if TYPE_CHECKING:
        time: float
        frame: int
        interval: float


def _wait(wake: Event, timeout: float | None) -> object:
    return wake.wait(timeout)


class Heartbeat:
    """Emit a :class:`HeartbeatEvent` at regular intervals.

    A beat that is late because listeners took too long is not made up for.

    Parameters
    ----------
    interval : float
        The seconds between two beats.
    event_manager : BaseEventManager, optional
        Where the events are emitted, by default the one of the process.
    clock : callable
        Returns the time in seconds.
    wait : callable
        Called with a :class:`threading.Event` and a number of seconds or
        None; returns when the event is set or the time is over.

    Attributes
    ----------
    interval : float
        The seconds between two beats.
    frame_count : int
        The number of beats emitted.
    """

    def __init__(
        self,
        interval: float = 1 / 50,
        event_manager: BaseEventManager | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        wait: Callable[[Event, float | None], object] = _wait,
    ) -> None:
        if interval <= 0:
            raise ValueError(f"an interval is a positive number of seconds, not {interval!r}")
        self.interval = interval
        self.event_manager = get_event_manager() if event_manager is None else event_manager
        self.frame_count = 0
        self._clock = clock
        self._wait = wait
        self._state: State = "waiting"
        # Wakes the loop that is running, and tells it from those that were before it.
        self._wake: Event | None = None

    @property
    def state(self) -> State:
        """'waiting' at first, then 'running', 'paused' or 'stopped'.

        Assign to it to pause, to go on, and to stop.
        """
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        if state not in _STATES:
            raise ValueError(f"a state is one of {', '.join(_STATES)}, not {state!r}")
        self._state = state
        if self._wake is not None:
            self._wake.set()

    def run(self) -> None:
        """Emit beats until the state is 'stopped'. A loop that was running ends."""
        self._loop(self._begin())

    def serve(self) -> Thread:
        """Emit beats on a daemon thread until the state is 'stopped'.

        Returns
        -------
        threading.Thread
            The started thread.
        """
        from threading import Thread

        # Begun here: a stop that comes before the thread does must count.
        thread = Thread(target=self._loop, args=(self._begin(),), name="Heartbeat", daemon=True)
        thread.start()
        return thread

    def _begin(self) -> Event:
        from threading import Event

        former, self._wake = self._wake, Event()
        if former is not None:
            former.set()
        if self._state != "paused":
            self._state = "running"
        return self._wake

    def _loop(self, wake: Event) -> None:
        due = self._clock()
        try:
            while self._wake is wake and self._state != "stopped":
                now = self._clock()
                if self._state == "paused":
                    self._wait(wake, None)
                    wake.clear()
                    due = self._clock()
                elif now < due:
                    self._wait(wake, due - now)
                    wake.clear()
                else:
                    event = HeartbeatEvent(
                        self, time=now, frame=self.frame_count, interval=self.interval
                    )
                    self.event_manager.emit(event)
                    self.frame_count += 1
                    due = max(due + self.interval, self._clock())
        finally:
            if self._wake is wake:
                self._state = "stopped"

    def __repr__(self) -> str:
        return f"<Heartbeat every {self.interval:g} s: {self._state}, {self.frame_count} frames>"
