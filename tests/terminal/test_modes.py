"""Modes, interrupts and sizes that change: the display as a whole."""

from __future__ import annotations

import gc
import io
import signal
import subprocess
import sys

import pytest

from encore.events.api import (
    EventManager,
    ProgressEndEvent,
    ProgressManager,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.terminal.api import ProgressDisplay, ProgressWriter

DEADLINE = 30
EVENTS = (ProgressStartEvent, ProgressStepEvent, ProgressEndEvent)


def work(operation):
    with operation("Copying", 10) as progress:
        progress.step(step=5)


# Modes


def test_bars_may_be_asked_for_where_there_is_no_terminal(manager, operation, clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    with ProgressDisplay(manager, stream=stream, clock=clock, mode="bar") as display:
        work(operation)
    assert display.mode == "bar"
    assert stream.getvalue().count("\r") == 2
    assert "\x1b[1A" in stream.getvalue()


def test_lines_may_be_asked_for_on_a_terminal(manager, operation, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock, mode="lines") as display:
        work(operation)
    assert display.mode == "lines"
    assert terminal.lines == ["Copying: started", "Copying: 100% (5/10, in 0.0 s), done"]


@pytest.mark.parametrize("tty", [True, False])
def test_auto_is_what_the_stream_can_do(manager, tty, fake_terminal):
    stream = fake_terminal() if tty else io.StringIO()
    with ProgressDisplay(manager, stream=stream, mode="auto") as display:
        assert display.mode == ("bar" if tty else "lines")


def test_off_shows_nothing_but_what_the_program_writes(manager, operation, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock, mode="off") as display:
        work(operation)
        assert not manager.has_listeners(ProgressStepEvent)  # so a step costs nothing
        assert manager.has_listeners(ProgressStartEvent)
        display.write("said")
        work(operation)
    assert display.mode == "off"
    assert terminal.getvalue() == "said\n"
    assert not manager.has_listeners(ProgressStartEvent)


@pytest.mark.parametrize("mode", ["bars", "", None, True, 0, ["bar"]])
def test_any_other_mode_is_an_error(manager, mode):
    with pytest.raises(ValueError, match="mode is one of auto, bar, lines, off"):
        ProgressDisplay(manager, mode=mode)
    assert not any(manager.has_listeners(cls) for cls in EVENTS)


# Steps


def test_a_step_listener_of_a_subclass_is_called(manager, operation, clock):
    seen = []

    class Display(ProgressDisplay):
        def step_listener(self, event):
            seen.append(event.step)
            super().step_listener(event)

    class Writer(ProgressWriter):
        def step_listener(self, event):
            seen.append(str(event.step))
            super().step_listener(event)

    display = Display(manager, stream=io.StringIO(), clock=clock)
    work(operation)
    display.close()
    display = ProgressDisplay(manager, stream=io.StringIO(), clock=clock)
    display.progress_writer = Writer
    work(operation)
    display.close()
    assert seen == [5, "5"]
    assert not any(manager.has_listeners(cls) for cls in EVENTS)


def test_an_id_that_is_equal_is_the_same_operation(manager, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        for cls, attributes in (
            (ProgressStartEvent, {"steps": 10}),
            (ProgressStepEvent, {"step": 5}),
            (ProgressEndEvent, {"exit_state": "error"}),
        ):
            clock.now += 1
            # A new string each time, as one that was read from somewhere.
            manager.emit(cls(operation_id="".join("id"), message="m", **attributes))
    assert "50%" in terminal.lines[0]
    assert terminal.lines[1] == "ERROR: m"


def test_steps_of_ended_operations_whose_id_comes_back_are_not_mixed_up(manager, clock):
    display = ProgressDisplay(manager, stream=io.StringIO(), clock=clock)
    for _ in range(100):
        operation_id = object()  # soon at the same address again
        manager.emit(ProgressStartEvent(operation_id=operation_id, message="m", steps=10))
        manager.emit(ProgressEndEvent(operation_id=operation_id, message="m"))
        del operation_id
        manager.emit(ProgressStepEvent(operation_id=object(), message="m", step=5))
    assert display._plain == display.writers == {}
    display.close()


def test_a_display_that_is_gone_stops_listening(manager, operation, clock):
    gc.disable()
    try:
        display = ProgressDisplay(manager, stream=io.StringIO(), clock=clock)
        progress = operation("Copying", 10)
        progress.start()
        del display
        assert not manager.has_listeners(ProgressStartEvent)
        progress.step(step=1)
        assert not manager.has_listeners(ProgressStepEvent)
        progress.step(step=2)
    finally:
        gc.enable()


# Control-C


class Interrupted(io.StringIO):
    """Interrupts its user once, before or after it has taken the text."""

    encoding = "utf-8"
    when = None
    text = "never"

    def isatty(self):
        return True

    def write(self, text):
        due = self.text in text
        if due:
            self.text = "never"
        super().write(text)
        if due:
            raise KeyboardInterrupt


def test_an_interrupted_program_keeps_its_bars(manager, operation, clock, fake_terminal):
    terminal = fake_terminal()
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with ProgressDisplay(manager, stream=terminal, clock=clock):
            outer, inner = operation("outer", 10), operation("inner", 10)
            outer.start()
            inner.start()
            outer.step(step=3)
            inner.step(step=5)  # too early for a repaint
            terminal.screen.feed("^C")  # the terminal does this itself
            raise KeyboardInterrupt
    assert [(line.split("─")[0].split("━")[0], line.count("%")) for line in terminal.lines] == [
        *(("outer    ", 1), ("interrupted", 0), ("  inner  ", 1), ("  interrupted", 0))
    ]
    assert "30%" in terminal.lines[0]
    assert "50%" in terminal.lines[2]
    assert (terminal.screen.row, terminal.screen.column) == (4, 0)
    assert not any(manager.has_listeners(cls) for cls in EVENTS)


def test_an_interrupted_program_tells_a_log_how_far_it_was(manager, operation, clock):
    log = io.StringIO()
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with ProgressDisplay(manager, stream=log, clock=clock):
            operation("Copying", 10).step(step=3)
            operation("Scanning").start()
            raise KeyboardInterrupt
    assert log.getvalue().splitlines()[-2:] == [
        "Copying: 30% (3/10, in 0.0 s), interrupted",
        "  Scanning: 0 (in 0.0 s), interrupted",
    ]


@pytest.mark.parametrize("part", ["text", "40%", "100%"])
def test_an_interrupt_while_the_stream_is_written_to(
    manager, operation, clock, fake_terminal, part
):
    terminal = fake_terminal()
    written = Interrupted()
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with ProgressDisplay(manager, stream=written, clock=clock) as display:
            progress = operation("Copying", 10)
            progress.start()
            other = operation("Moving", 10, parent=None)
            other.start()
            clock.now += 1
            written.text = part
            display.write("text")
            progress.step(step=4)
            clock.now += 1
            progress.step(step=4)
            progress.end()
    terminal.screen.feed(written.getvalue())
    told = [line.split()[0] for line in terminal.screen.lines if line.strip() != "interrupted"]
    assert sorted(told) == ["Copying", "Moving", "text"]  # each of them once


def test_what_was_to_be_told_when_an_interrupt_came_is_told_at_the_end(
    manager, operation, clock, fake_terminal
):
    terminal = fake_terminal()

    class Writer(ProgressWriter):
        interrupt = False

        def row(self, now):
            if Writer.interrupt:
                Writer.interrupt = False
                raise KeyboardInterrupt
            return super().row(now)

    display = ProgressDisplay(manager, stream=terminal, clock=clock)
    display.progress_writer = Writer
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117, PT012
        with display:
            progress = operation("Copying", 10)
            progress.start()
            Writer.interrupt = True
            display.write("text")
    assert [line.split()[0] for line in terminal.lines] == ["text", "Copying", "interrupted"]


PROGRAM = """
import sys, time
from encore.events.api import EventManager, ProgressManager, ProgressEvent
from encore.terminal.api import ProgressDisplay

manager = EventManager()
try:
    with ProgressDisplay(manager):
        progress = ProgressManager(manager, None, None, "Copying", 10)
        progress.step(step=5)
        print("ready", flush=True)
        while True:
            progress.step(step=5)
            time.sleep(0.001)
except KeyboardInterrupt:
    print("interrupted", manager.has_listeners(ProgressEvent), flush=True)
"""


def test_a_real_interrupt(terminal):
    real = terminal(60)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=real.stream.fileno()
    )
    with process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=DEADLINE)
    assert out == b"interrupted False\n"
    lines = real.lines()
    assert len(lines) == 2
    assert lines[0].startswith("Copying  ━")
    assert "50%" in lines[0]
    assert lines[1] == "interrupted"
    assert (real.screen.row, real.screen.column) == (2, 0)


# Sizes


def test_a_terminal_that_changes_its_size_while_bars_run(
    manager, operation, clock, fake_terminal, monkeypatch
):
    terminal = fake_terminal(80, 24)
    with ProgressDisplay(manager, stream=terminal, clock=clock) as display:
        whole = operation("whole", 100)
        whole.start()
        parts = [operation(f"part {n}", 100, parent=whole.operation_id) for n in range(12)]
        for part in parts:
            part.start()
        for round, (columns, lines) in enumerate(
            [(80, 24), (40, 24), (40, 10), (40, 5), (100, 5), (100, 30), (33, 30), (80, 24)], 1
        ):
            terminal.screen.resize(columns, lines)
            monkeypatch.setenv("COLUMNS", str(columns))
            monkeypatch.setenv("LINES", str(lines))
            clock.now += 1
            whole.step(step=round)
            display.write(f"round {round}")
            assert not terminal.screen.wrapped
            shown = terminal.screen.visible
            assert all(len(line) < columns for line in shown)
            assert len(shown) <= lines
            assert shown.pop() == ""  # where the cursor is
            count = min(13, lines - 2)
            if count < 13:
                assert shown.pop().startswith(f"… and {13 - count} more")
            assert all("%" in line for line in shown[-count:])
            assert shown[-count].startswith("whole")
            assert len(shown) == count or shown[-count - 1] == f"round {round}"
        for part in parts:
            part.end()
        whole.end()
    lines = [line.split("  ")[0] for line in terminal.lines]
    assert [line for line in lines if line.startswith("round")] == [
        f"round {round}" for round in range(1, 9)
    ]


def test_a_terminal_that_breaks_its_lines_again(
    manager, operation, clock, fake_terminal, monkeypatch
):
    terminal = fake_terminal(100, 24)
    with ProgressDisplay(manager, stream=terminal, clock=clock) as display:
        rows = [operation(f"Operation {n}", 1000, unit="files", parent=None) for n in range(3)]
        said = []
        for round, columns in enumerate([100, 100, 50, 50, 120, 30, 70, 41, 100]):
            terminal.screen.resize(columns)
            monkeypatch.setenv("COLUMNS", str(columns))
            for row in rows:
                clock.now += 0.1
                row.step(step=round * 70)
            said.append(f"message {round} of the user")
            display.write(said[-1])
            assert terminal.lines[: len(said)] == said
            shown = [line.split("  ")[0] for line in terminal.lines[len(said) :]]
            assert shown == ["Operation 0", "Operation 1", "Operation 2"]
            assert terminal.screen.row == len(said) + 3
    assert terminal.lines[: len(said)] == said


def test_a_display_of_the_process_manager_is_the_default_of_every_mode(monkeypatch):
    from encore.events import package_globals

    monkeypatch.setattr(package_globals, "_event_manager", EventManager())
    stream = io.StringIO()
    with ProgressDisplay(stream=stream, mode="lines"), ProgressManager(message="m", steps=1):
        pass
    assert stream.getvalue().startswith("m: started\nm: 100%")
