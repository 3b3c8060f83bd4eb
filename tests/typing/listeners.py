"""What a type checker says of listeners: ``mypy --strict`` reads this file, nothing runs it.

Each ``type: ignore`` marks an error; one that is not found is an error itself.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from encore.events.api import (
    BaseEvent,
    BaseEventManager,
    Connection,
    EventManager,
    ProgressEvent,
    ProgressManager,
    ProgressStepEvent,
)
from encore.testing import capture_events


def of_steps(event: ProgressStepEvent) -> None:
    print(event.step)


def of_progress(event: ProgressEvent) -> bool:
    return bool(event.message)


def of_text(text: str) -> None:
    print(text)


def of_number(number: int) -> None:
    print(number)


def of_two(event: BaseEvent, other: int) -> None:
    print(event, other)


async def coroutine(event: BaseEvent) -> None:
    print(event)


@dataclass
class Placed(BaseEvent):
    order: int


@dataclass
class Noted(Placed):
    note: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.note = self.note.strip()


def of_placed(event: Placed) -> None:
    number: int = event.order
    text: str = event.order  # type: ignore[assignment]
    print(number, text, event.source)


def check_dataclasses(manager: EventManager) -> None:
    manager.connect(Placed, of_placed)
    manager.connect(Noted, of_placed)
    manager.emit(Placed(3))
    manager.emit(Placed("three"))  # type: ignore[arg-type]
    manager.emit(Placed)  # type: ignore[call-overload]


def check_dispatch(manager: EventManager, loop: asyncio.AbstractEventLoop) -> None:
    manager.connect(
        ProgressEvent,
        coroutine,
        dispatch=lambda call: asyncio.run_coroutine_threadsafe(call(), loop),
    )
    manager.connect(ProgressEvent, coroutine, dispatch=lambda call: loop.create_task(call()))
    manager.connect(ProgressStepEvent, of_steps, dispatch=loop.call_soon_threadsafe)
    manager.connect(ProgressStepEvent, of_steps, dispatch=lambda call: call(1))  # type: ignore[call-arg]
    manager.connect(ProgressStepEvent, of_steps, dispatch=lambda: None)  # type: ignore[misc,arg-type]

    @manager.listener(
        ProgressStepEvent, dispatch=lambda call: asyncio.run_coroutine_threadsafe(call(), loop)
    )
    async def decorated(event: ProgressStepEvent) -> int:
        return 3


def check_cancel(future: Future[int], event: threading.Event) -> None:
    ProgressManager(cancel=future)
    ProgressManager(cancel=event)
    ProgressManager(cancel=3)  # type: ignore[arg-type]


def check(manager: BaseEventManager, executor: ThreadPoolExecutor) -> None:
    connection: Connection = manager.connect(ProgressStepEvent, of_steps)
    connection.disconnect()
    with manager.connect(ProgressStepEvent, of_progress, once=True, weak=True):
        pass
    manager.connect(ProgressEvent, of_steps)  # type: ignore[arg-type]
    manager.connect(BaseEvent, of_progress)  # type: ignore[arg-type]
    manager.connect(ProgressEvent, of_text)  # type: ignore[arg-type]
    manager.connect(ProgressEvent, of_two)  # type: ignore[arg-type]
    manager.connect(int, of_number)  # type: ignore[type-var]
    manager.disconnect(ProgressEvent, of_steps)  # type: ignore[arg-type]

    manager.connect(ProgressStepEvent, of_steps, dispatch=executor)
    manager.connect(ProgressStepEvent, coroutine, dispatch=lambda call: call())
    manager.connect(ProgressStepEvent, of_steps, dispatch=3)  # type: ignore[arg-type]

    @manager.listener(ProgressStepEvent, priority=2)
    def decorated(event: ProgressStepEvent) -> int:
        return 3

    number: int = decorated(ProgressStepEvent())
    print(number)

    @manager.listener(ProgressEvent)  # type: ignore[arg-type]
    def refused(event: ProgressStepEvent) -> None:
        pass

    with capture_events(manager, ProgressStepEvent) as events:
        manager.emit(ProgressStepEvent())
    first: ProgressStepEvent = events[0]
    print(first.step)
    text: str = events[0].step  # type: ignore[assignment]
    print(text)
