"""What may come in between while the display paints: interrupts, finalizers, threads, forks."""

from __future__ import annotations

import gc
import io
import logging
import os
import threading

import pytest

from encore.events.api import (
    BaseEvent,
    EventManager,
    ProgressEndEvent,
    ProgressManager,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.terminal import _nesting, _screen, _text
from encore.terminal.api import ProgressDisplay, ProgressWriter

DEADLINE = 30


class Tty(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("mode", ["bar", "lines"])
@pytest.mark.parametrize("action", ["start", "step", "end", "write", "close"])
def test_an_interrupt_at_any_line_leaves_the_display_usable(clock, mode, action, interrupted):
    number = 1
    while True:
        manager, stream = EventManager(), Tty()
        display = ProgressDisplay(manager, stream=stream, clock=clock, mode=mode)
        operation = ProgressManager(manager, None, None, "Copying", 10)
        if action != "start":
            operation.start()
        clock.now += 1
        actions = {
            "start": operation.start,
            "step": operation.step,
            "end": operation.end,
            "write": lambda display=display: display.write("text"),
            "close": display.close,
        }
        if not interrupted(actions[action], {_screen.__file__}, number):
            break
        number += 1
        stream.seek(0)
        stream.truncate()
        thread = threading.Thread(target=display.write, args=("afterwards",), daemon=True)
        thread.start()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert stream.getvalue().count("afterwards") == 1
        display.close()
        assert not manager.has_listeners(ProgressStartEvent)
        assert display._screen.closed
    assert number > 5


def test_an_operation_may_end_wherever_another_one_is_being_removed(clock, interrupted):
    number = 1
    while True:
        manager, stream = EventManager(), Tty()
        display = ProgressDisplay(manager, stream=stream, clock=clock)
        names = "abcd"
        running = {n: ProgressManager(manager, None, n, n, 10, parent=None) for n in names}
        for one in running.values():
            one.start()
        files = {_screen.__file__, _nesting.__file__}
        # As a finalizer does, which garbage collection runs.
        if not interrupted(running["c"].end, files, number, lambda _: running["a"].end()):  # noqa: B023
            break
        number += 1
        left = [entry.operation.operation_id for entry in display._screen._forest.walk()]
        assert left == ["b", "d"]
        display.close()
    assert number > 50


# What painting itself brings


class Chatty:
    def __init__(self, logger):
        self.logger = logger

    def __str__(self):
        self.logger.warning("formatted")
        return "Copying"


@pytest.mark.parametrize("mode", ["bar", "lines", "off"])
@pytest.mark.parametrize("where", ["stream", "message", "row"])
def test_logging_while_painting_comes_to_an_end(manager, clock, mode, where):
    logger = logging.Logger("of the test")

    class Stream(Tty):
        writes = 0

        def write(self, text):
            self.writes += 1
            assert self.writes < 100
            if where == "stream":
                logger.warning("written")
            return super().write(text)

    class Writer(ProgressWriter):
        def row(self, now):
            if where == "row":
                logger.warning("painted")
            return super().row(now)

    stream = Stream()
    display = ProgressDisplay(manager, stream=stream, clock=clock, mode=mode)
    display.progress_writer = Writer
    logger.addHandler(display.log_handler())
    message = Chatty(logger) if where == "message" else "Copying"
    with display, ProgressManager(manager, None, None, message, 10) as progress:
        clock.now += 1
        progress.step(step=1)
        display.write("text")
    display.write("afterwards")
    said = {"stream": "written", "message": "formatted", "row": "painted"}[where]
    assert said in stream.getvalue() or mode == "off"
    assert "afterwards" in stream.getvalue()


def test_a_thread_does_not_paint_for_others_for_ever(manager, clock):
    class Stream(io.StringIO):
        mine = others = 0

        def write(self, text):
            if threading.current_thread() is victim:
                self.mine += 1
            elif threading.current_thread().name == "encore.terminal":
                self.others += 1
            if self.mine + self.others < 50:
                thread = threading.Thread(target=display.write, args=("more",))
                thread.start()
                thread.join(DEADLINE)
            return super().write(text)

    stream = Stream()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    victim = threading.Thread(target=display.write, args=("first",))
    victim.start()
    victim.join(DEADLINE)
    assert not victim.is_alive()
    while relief := [one for one in threading.enumerate() if one.name == "encore.terminal"]:
        relief[0].join(DEADLINE)
        assert not relief[0].is_alive()
    display.close()
    assert stream.mine == 10
    assert stream.getvalue().splitlines() == ["first"] + ["more"] * 49


def test_a_thread_goes_on_painting_if_there_is_nobody_to_relieve_it(manager, clock, monkeypatch):
    class Stream(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            if self.writes < 50:
                thread = threading.Thread(target=display.write, args=("more",))
                thread.start()
                thread.join(DEADLINE)
            return super().write(text)

    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "encore.terminal":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    stream = Stream()
    with ProgressDisplay(manager, stream=stream, clock=clock) as display:
        display.write("first")
    assert stream.getvalue().splitlines() == ["first"] + ["more"] * 49


@pytest.mark.parametrize("mode", ["bar", "lines"])
def test_closing_while_painting_keeps_the_last_state(
    manager, clock, fake_terminal, mode, monkeypatch
):
    monkeypatch.setattr(_screen, "_PATIENCE", None)  # it does not wait for itself
    terminal = fake_terminal()
    terminal.closing = False

    class Stream(type(terminal)):
        def write(self, text):
            if self.closing:
                self.closing = False
                display.close()
                display.write("closed")
            return super().write(text)

    terminal.__class__ = Stream
    display = ProgressDisplay(manager, stream=terminal, clock=clock, mode=mode)
    progress = ProgressManager(manager, None, None, "Copying", 10)
    progress.step(step=3)
    terminal.closing = True
    display.write("text")
    shown = [line.split("  ")[0] for line in terminal.lines]
    if mode == "bar":
        assert "30%" in terminal.lines[2]
        assert shown == ["text", "closed", "Copying"]
    else:
        assert shown == ["Copying: started", "text", "closed"]
    assert display._screen.closed


def test_closing_is_not_put_off_whatever_painting_brings(manager, clock):
    class Stream(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            if self.writes == 1:
                display.write("from within")
            elif self.writes == 2:
                display.close()
            return super().write(text)

    stream = Stream()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    display.write("text")
    assert display._screen.closed
    assert stream.getvalue() == "text\nfrom within\n"


def test_what_a_writer_that_raises_has_spoilt_is_not_tried_for_ever(manager, clock):
    class Writer(ProgressWriter):
        def row(self, now):
            raise ValueError("of its own")

    log = io.StringIO()
    display = ProgressDisplay(manager, stream=log, clock=clock)
    display.progress_writer = Writer
    start = ProgressStartEvent(operation_id=1, message="Copying", steps=10)
    with pytest.raises(ValueError, match="of its own"):
        display.start_listener(start)
    display.write("text")
    assert log.getvalue() == "text\n"


def test_what_starts_when_its_parent_has_just_ended_is_not_lost():
    forest = _nesting.Forest(4)
    parent, child = _nesting.Node(None, None), _nesting.Node(None, None)
    child.parent = parent
    forest.add(parent)
    forest.end(parent, 1.0, "normal")
    forest.add(child)
    assert [child.parent, *forest.roots] == [None, child]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_that_is_forked_while_another_thread_paints(manager, clock):
    painting, go_on = threading.Event(), threading.Event()

    class Slow(io.StringIO):
        def write(self, text):
            if not child:
                painting.set()
                assert go_on.wait(DEADLINE)
            return super().write(text)

    child = False
    stream = Slow()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    painter = threading.Thread(target=display.write, args=("text",))
    painter.start()
    assert painting.wait(DEADLINE)
    pid = os.fork()
    if not pid:
        child = True
        status = 1
        try:
            with ProgressManager(manager, None, None, "Copying", 10) as progress:
                clock.now += 100
                progress.step(step=5)
            display.close()
            status = "Copying: 50%" not in stream.getvalue() or not display._screen.closed
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    go_on.set()
    painter.join(DEADLINE)
    assert status == 0
    assert stream.getvalue() == "text\n"


# Odd events


class Odd:
    """Nothing that can be done with it works."""

    def fail(self, *args):
        raise ValueError("odd")

    __bool__ = __eq__ = __str__ = __repr__ = __format__ = __len__ = __float__ = fail
    __hash__ = object.__hash__


class OddText(str):
    __bool__ = __eq__ = __format__ = __len__ = __getitem__ = isprintable = startswith = Odd.fail
    isascii = upper = split = Odd.fail
    __hash__ = str.__hash__


class OddNumber(int):
    __bool__ = __eq__ = __format__ = __le__ = __ge__ = __lt__ = __truediv__ = Odd.fail
    __hash__ = int.__hash__


@pytest.mark.parametrize("odd", [Odd(), OddText("odd"), OddNumber(7)], ids=["any", "str", "int"])
@pytest.mark.parametrize("mode", ["bar", "lines"])
def test_odd_attributes_harm_nobody(manager, clock, fake_terminal, caplog, mode, odd):
    terminal = fake_terminal()
    display = ProgressDisplay(manager, stream=terminal, clock=clock, mode=mode)
    good = ProgressManager(manager, None, None, "Good", 10, parent=None)
    good.start()
    for name in ("message", "unit", "steps", "step", "exit_state", "complete"):
        attributes = {"message": "Odd", "steps": 10, "parent": None, name: odd}
        clock.now += 100
        manager.emit(ProgressStartEvent(operation_id=name, **attributes))
        manager.emit(ProgressStepEvent(operation_id=name, **{"step": 5, **attributes}))
        display.write(f"text after {name}")
        manager.emit(ProgressEndEvent(operation_id=name, **attributes))
    good.end()
    display.close()
    text = "\n".join(terminal.lines)
    assert text.count("text after") == 6
    assert "Good" in terminal.lines[-1]
    assert "100%" in terminal.lines[-1]
    assert caplog.records == []
    assert display.writers == {}


def test_attributes_that_cannot_be_read_harm_nobody(manager, clock):
    class Event(ProgressStepEvent):
        step = message = unit = property(Odd.fail)

    log = io.StringIO()
    with ProgressDisplay(manager, stream=log, clock=clock) as display:
        manager.emit(ProgressStartEvent(operation_id=1, message="Copying", steps=10))
        event = BaseEvent.__new__(Event)
        event.__dict__["operation_id"] = 1
        clock.now += 100
        manager.emit(event)
        display.write("text")
    assert log.getvalue() == "Copying: started\ntext\n"


@pytest.mark.parametrize("state", ["running", "stopped", "new", "dropped", ""])
def test_any_word_but_normal_is_a_failure(manager, clock, fake_terminal, state):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        ProgressManager(manager, None, None, "Copying", 10).end("why", state)
    assert terminal.lines[1:] == [f"{state.upper()}: why"]


def test_an_id_that_changes_while_its_operation_runs(manager, clock, fake_terminal):
    terminal = fake_terminal()
    display = ProgressDisplay(manager, stream=terminal, clock=clock)
    operation_id = ["a"]
    with ProgressManager(manager, None, operation_id, "Copying", 10) as progress:
        operation_id.append("b")
        clock.now += 1
        progress.step(step=5)
        assert "50%" in terminal.lines[0]
        operation_id.append("c")
    assert "100%" in terminal.lines[0]
    assert display.writers == {}


def test_a_display_that_is_dropped_leaves_no_listener(manager):
    gc.disable()
    try:
        display = ProgressDisplay(manager, stream=io.StringIO())
        assert manager.has_listeners(ProgressStepEvent)
        del display
        assert not manager.has_listeners(ProgressStepEvent)
    finally:
        gc.enable()


# Many operations


def test_many_operations_at_once_are_not_all_painted_for_each(manager, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        operations = [
            ProgressManager(manager, None, n, f"number {n}", 10, parent=None) for n in range(300)
        ]
        for one in operations:
            one.start()
        assert terminal.writes < 120
        for one in operations:
            one.end()
        assert terminal.writes < 240
        assert len(terminal.lines) == 300  # the last one is not forgotten
        assert all("100%" in line for line in terminal.lines)


def test_in_plain_lines_only_what_starts_or_ends_is_looked_at(manager, clock):
    rows = 0

    class Writer(ProgressWriter):
        def row(self, now):
            nonlocal rows
            rows += 1
            return super().row(now)

    log = io.StringIO()
    display = ProgressDisplay(manager, stream=log, clock=clock)
    display.progress_writer = Writer
    operations = [
        ProgressManager(manager, None, n, f"number {n}", 10, parent=None) for n in range(100)
    ]
    for one in operations:
        one.start()
    for one in operations:
        one.end()
    assert rows == 200
    assert log.getvalue().count("\n") == 200


@pytest.mark.parametrize("width", [1, 2, 5, 20])
def test_the_time_to_wrap_a_word_grows_with_its_length(monkeypatch, width):
    seen = 0
    widths = _text._char_widths

    def counting(text):
        nonlocal seen
        for width in widths(text):
            seen += 1
            yield width

    monkeypatch.setattr(_text, "_char_widths", counting)
    assert "".join(_text.wrap("日" * 2000, width)) == ("日" * 2000 if width > 1 else "")
    assert seen < 2000 * 8


# A stream that does not block


def test_what_a_full_pipe_cannot_take_it_gets_later(manager):
    read, write = os.pipe()
    os.set_blocking(write, False)
    expected = [f"line {number:04} {'x' * 60}" for number in range(3000)]
    with open(read, "rb") as source, open(write, "w") as target:
        display = ProgressDisplay(manager, stream=target)
        for line in expected[:-1]:  # more than a pipe has room for
            display.write(line)
        assert not display._screen.stream.broken
        got = []
        reader = threading.Thread(target=lambda: got.append(source.read()))
        reader.start()
        display.write(expected[-1])
        display.close()
        target.close()
        reader.join(DEADLINE)
    assert got[0].decode().splitlines() == expected


def test_a_stream_that_takes_nothing_holds_up_nobody_and_fills_no_memory(manager, monkeypatch):
    monkeypatch.setattr(_screen, "_PATIENCE", 0.01)
    monkeypatch.setattr(_screen, "_LONGEST", 100)
    read, write = os.pipe()
    os.set_blocking(write, False)
    with open(read, "rb"), open(write, "wb", buffering=0) as raw:
        while raw.write(b"x" * 1024):
            pass
        target = open(write, "w", closefd=False)  # noqa: SIM115
        display = ProgressDisplay(manager, stream=target)
        for number in range(1000):
            display.write(f"line {number}")
        assert 0 < len(display._screen._news) <= 100
        display.close()
        assert display._screen.closed
        with pytest.raises(BlockingIOError):
            target.close()
