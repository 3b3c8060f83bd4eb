from __future__ import annotations

import gc
import io
import logging
import threading
import weakref

import pytest

from encore.events.api import (
    BaseEvent,
    ProgressEndEvent,
    ProgressEvent,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.terminal.api import ProgressDisplay, ProgressWriter, SpinWriter

DEADLINE = 30


@pytest.fixture(autouse=True)
def _no_listener_fails(caplog):
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.fixture
def bars(manager, clock, fake_terminal):
    """Makes a display on a terminal; its `lines` are what that shows."""

    def make(columns=80, lines=24, **kwargs):
        stream = fake_terminal(columns, lines)
        display = ProgressDisplay(manager, stream=stream, clock=clock, **kwargs)
        display.terminal = stream
        return display

    return make


@pytest.fixture
def log(manager, clock):
    stream = io.StringIO()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    display.text = stream.getvalue
    return display


# A terminal


def test_a_bar_from_start_to_end(bars, operation, clock):
    display = bars()
    progress = operation("Copying", 10 * 2**20, unit="B")
    progress.start()
    assert display.terminal.lines == ["Copying  ───────────────────────────    0%   0.0/10.0 MiB"]
    clock.now += 2
    progress.step(step=5 * 2**20)
    assert display.terminal.lines == [
        "Copying  ━━━━━━━━━━━━━╸─────────────   50%   5.0/10.0 MiB  2.5 MiB/s   2 s left"
    ]
    clock.now += 2
    progress.step(step=10 * 2**20)
    progress.end()
    assert display.terminal.lines == [
        "Copying  ━━━━━━━━━━━━━━━━━━━━━━━━━━━  100%       10.0 MiB  2.5 MiB/s   in 4.0 s"
    ]
    assert (display.terminal.screen.row, display.terminal.screen.column) == (1, 0)
    assert display.terminal.screen.codes == {"0", "36", "90", "32"}
    assert display.writers == {}


def test_a_spinner_from_start_to_end(bars, operation, clock):
    display = bars()
    with operation("Scanning") as progress:
        assert display.terminal.lines == ["Scanning  ⠋  0  0 s"]
        clock.now += 2.5
        progress.step(step=1234)
        assert display.terminal.lines == ["Scanning  ⠴  1,234      494/s  2 s"]
        clock.now += 2.5
    assert display.terminal.lines == ["Scanning  ✓  1,234      247/s  in 5.0 s"]


def test_a_failure_keeps_the_bar_where_it_stopped_and_says_why(bars, operation, clock):
    display = bars()
    progress = operation("Copying", 10)
    progress.start()
    clock.now += 4
    progress.step(step=4)
    progress.__exit__(OSError, OSError("disk full"), None)
    bar, reason = display.terminal.lines
    assert bar.startswith("Copying  ━━━━━━━━━━━━━━")
    assert "   40%  " in bar
    assert "4/10" in bar
    assert "─" in bar
    assert reason == "EXCEPTION: disk full"
    assert "31" in display.terminal.screen.codes


def interrupt(progress):
    with progress:
        progress.step(step=4)
        raise KeyboardInterrupt


@pytest.mark.parametrize("steps", [10, -1])
def test_control_c_is_told_as_such(bars, log, operation, steps):
    display = bars()
    with pytest.raises(KeyboardInterrupt):
        interrupt(operation("Copying", steps))
    line, reason = display.terminal.lines
    assert ("✗" in line) == (steps < 0)
    assert reason == "interrupted"
    assert log.text().endswith(", interrupted\n")


def test_the_message_of_the_operation_is_not_repeated(bars, log, operation):
    display = bars()
    operation("Copying", 3).end("Copying: cancelled", "warning")
    assert display.terminal.lines[1:] == ["WARNING: cancelled"]
    assert log.text().endswith("), WARNING: cancelled\n")


@pytest.mark.parametrize(
    ("state", "message", "reason"),
    [
        ("exception", "interrupted", "interrupted"),
        ("interrupted", "", "INTERRUPTED"),
        ("error", "no such file", "ERROR: no such file"),
        ("warning", "2 skipped", "WARNING: 2 skipped"),
        ("exception", "", "EXCEPTION"),
        ("odd\x1b state", "why", "ODD? STATE: why"),
        (None, None, None),
    ],
)
def test_exit_states(bars, operation, state, message, reason):
    display = bars()
    progress = operation("Copying", 10)
    progress.step(step=4)
    progress.end(message, state)
    assert display.terminal.lines[1:] == ([] if reason is None else [reason])


def test_a_long_reason_is_told_in_full(bars, operation):
    display = bars(40)
    operation("Copying", 10).end(" ".join(["word"] * 20), "error")
    assert display.terminal.lines[1:] == [
        "ERROR: word word word word word word",
        "  word word word word word word word",
        "  word word word word word word word",
    ]
    assert not display.terminal.screen.wrapped


def test_several_operations_have_a_line_each_and_ended_ones_stay_above(bars, operation, clock):
    display = bars()
    first, second, third = (
        operation(name, 10, parent=None) for name in ("first", "second", "third")
    )
    first.start()
    second.start()
    third.start()
    clock.now += 1
    second.step(step=5)
    assert [line.split()[0] for line in display.terminal.lines] == ["first", "second", "third"]
    assert ["50%" in line for line in display.terminal.lines] == [False, True, False]
    third.end()
    assert [line.split()[0] for line in display.terminal.lines] == ["third", "first", "second"]
    second.end("no", "error")
    first.end()
    assert [line.split()[0] for line in display.terminal.lines] == [
        *("third", "second", "ERROR:", "first")
    ]
    assert len({line.index("%") for line in display.terminal.lines if "%" in line}) == 1


def test_more_operations_than_lines_are_counted(bars, operation, clock):
    display = bars(80, 5)
    progresses = [operation(f"number {n}", 10, parent=None) for n in range(8)]
    for progress in progresses:
        progress.start()
    assert [line.split("  ")[0] for line in display.terminal.lines] == [
        *("number 0", "number 1", "number 2", "… and 5 more")
    ]
    for progress in progresses:
        clock.now += 1
        progress.step(step=5)
        progress.end()
    lines = display.terminal.lines
    assert [line.split("  ")[0] for line in lines] == [f"number {n}" for n in range(8)]


@pytest.mark.parametrize("height", [1, 2, 3])
@pytest.mark.parametrize("width", range(1, 21))
def test_a_tiny_terminal(bars, operation, clock, width, height):
    display = bars(width, height)
    progress = operation("Copying 日本", 10)
    other = operation("Scanning")
    progress.start()
    other.start()
    for step in range(11):
        clock.now += 1
        progress.step(step=step)
        other.step(step=step)
    progress.end("it is 日本 full", "error")
    other.end("found 1234 directories")
    assert not display.terminal.screen.wrapped


def test_repaints_are_limited_in_rate(bars, operation, clock):
    display = bars()
    progress = operation("Copying", 10_000)
    progress.start()
    for step in range(1, 1001):  # ten seconds
        clock.now += 0.01
        progress.step(step=step)
    assert 100 <= display.terminal.writes <= 200
    progress.step(step=1001)
    progress.end("x", "error")
    assert "1,001/10,000" in display.terminal.lines[0]


def test_a_step_reads_the_clock_once(bars, operation, clock):
    display = bars()
    progress = operation("Copying", 100)
    progress.start()
    reads, writes = clock.reads, display.terminal.writes
    for step in range(100):
        progress.step(step=step)
    assert clock.reads - reads == 100
    assert display.terminal.writes == writes


def test_a_terminal_that_becomes_narrower(bars, operation, clock, monkeypatch):
    display = bars(80)
    one, two = operation("Copying", 10), operation("Moving", 10, parent=None)
    one.start()
    two.start()
    display.terminal.screen.resize(30)
    monkeypatch.setenv("COLUMNS", "30")
    clock.now += 1
    one.step(step=5)
    assert [line.split()[0] for line in display.terminal.lines] == ["Copying", "Moving"]
    display.terminal.screen.resize(100)
    monkeypatch.setenv("COLUMNS", "100")
    clock.now += 1
    one.end()
    two.end()
    assert [line.split()[0] for line in display.terminal.lines] == ["Copying", "Moving"]
    assert not display.terminal.screen.wrapped


def test_hostile_messages_stay_in_their_line(bars, operation, clock):
    display = bars(40)
    progress = operation("\x1b[2J\x1b]0;title\x07\r\n日本語" + "x" * 200, 10)
    progress.start()
    clock.now += 1
    progress.step("\u202e\x00\udcff", 5)
    progress.end("\x1b[5;5H" + "日" * 60, "error")
    assert not display.terminal.screen.wrapped
    assert display.terminal.lines[0].startswith("?[2J?]0;title?…  ━━╸──   50%   in 1.0 s")
    reason = "".join(line.strip() for line in display.terminal.lines[1:])
    assert reason == "ERROR: ?[5;5H" + "日" * 60


def test_the_message_of_a_step_is_shown(bars, operation, clock):
    display = bars(120)
    progress = operation("Copying", 10)
    progress.start()
    clock.now += 1
    progress.step("b.txt", 1)
    assert display.terminal.lines[0].startswith("Copying: b.txt  ━")
    clock.now += 1
    progress.step("Copying c.txt", 2)
    assert display.terminal.lines[0].startswith("Copying c.txt   ━")
    clock.now += 1
    progress.step(step=3)
    assert display.terminal.lines[0].startswith("Copying         ━")


def test_the_message_of_a_normal_end_is_told_once(bars, operation):
    display = bars()
    operation("Copying", 10).end("2 files")
    assert [line.split("  ")[0] for line in display.terminal.lines] == ["Copying: 2 files"]
    operation("Copying", 10).end("12 files, 3 skipped, none failed")
    assert display.terminal.lines[1].startswith("Copying: 12 files,")
    assert display.terminal.lines[2] == "  12 files, 3 skipped, none failed"


def test_no_color(bars, operation, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    display = bars()
    operation("Copying", 10).end("no", "error")
    assert len(display.terminal.lines) == 2
    assert display.terminal.screen.codes == set()


def test_ascii_where_the_encoding_needs_it(bars, operation, fake_terminal, manager, clock):
    stream = fake_terminal()
    stream.__class__ = type("Ascii", (type(stream),), {"encoding": "ascii"})
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    operation("Kopieren für 日本", 10).end()
    operation("Scanning").start()
    assert stream.getvalue().isascii()
    assert stream.lines[0].startswith("Kopieren f?r ??  [####")
    assert "|" in stream.lines[1]
    display.close()


def test_nothing_new_is_not_written_again(bars, operation, clock):
    display = bars()
    progress = operation("Copying", 10)
    progress.start()
    writes = display.terminal.writes
    clock.now += 1
    progress.step(step=0)
    assert display.terminal.writes == writes


# A file


def test_plain_lines(log, operation, clock):
    progress = operation("Copying", 100)
    progress.start()
    for step in range(1, 101):
        clock.now += 0.5
        progress.step(step=step)
    progress.end()
    assert log.text().splitlines() == [
        "Copying: started",
        "Copying: 10% (10/100, 2.0/s, 45 s left)",
        "Copying: 20% (20/100, 2.0/s, 40 s left)",
        "Copying: 30% (30/100, 2.0/s, 35 s left)",
        "Copying: 40% (40/100, 2.0/s, 30 s left)",
        "Copying: 50% (50/100, 2.0/s, 25 s left)",
        "Copying: 60% (60/100, 2.0/s, 20 s left)",
        "Copying: 70% (70/100, 2.0/s, 15 s left)",
        "Copying: 80% (80/100, 2.0/s, 10 s left)",
        "Copying: 90% (90/100, 2.0/s, 5 s left)",
        "Copying: 100% (100/100, 2.0/s, 0 s left)",
        "Copying: 100% (100, 2.0/s, in 50 s), done",
    ]


def test_quick_operations_write_their_start_and_end_only(log, operation, clock):
    with operation("Copying", 1000) as progress:
        for step in range(1001):
            clock.now += 0.001
            progress.step(step=step)
    assert log.text().splitlines() == [
        "Copying: started",
        "Copying: 100% (1,000, 999/s, in 1.0 s), done",
    ]


def test_slow_operations_write_a_line_now_and_then(log, operation, clock):
    progress = operation("Scanning")
    progress.start()
    for step in range(1, 41):
        clock.now += 1
        progress.step(step=step)
    progress.end("gone", "error")
    assert log.text().splitlines() == [
        "Scanning: started",
        "Scanning: 15 (1.0/s, 15 s)",
        "Scanning: 30 (1.0/s, 30 s)",
        "Scanning: 40 (1.0/s, in 40 s), ERROR: gone",
    ]


def test_several_operations_in_a_file(log, operation, clock):
    first, second = operation("first", 10), operation("", 10, parent=None)
    first.start()
    second.start()
    clock.now += 5
    second.step(step=5)
    second.end()
    first.end("", "warning")
    assert log.text().splitlines() == [
        "first: started",
        "started",
        "50% (5/10, 1.0/s, 5 s left)",
        "100% (5/10, 1.0/s, in 5.0 s), done",
        "first: 0% (0/10, in 5.0 s), WARNING",
    ]


def test_a_file_gets_no_escape_sequences_and_what_its_encoding_takes(
    manager, operation, tmp_path, clock
):
    with open(tmp_path / "log", "w", encoding="ascii", errors="strict") as file:
        display = ProgressDisplay(manager, stream=file, clock=clock)
        with operation("\x1b[31mfür 日本", 10):
            pass
        display.close()
    assert (tmp_path / "log").read_bytes().split(b"\n") == [
        b"?[31mf?r ??: started",
        b"?[31mf?r ??: 100% (0/10, in 0.0 s), done",
        b"",
    ]


def test_a_dumb_terminal_gets_lines(bars, operation, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    display = bars()
    with operation("Copying", 10):
        pass
    assert display.terminal.getvalue() == (
        "Copying: started\nCopying: 100% (0/10, in 0.0 s), done\n"
    )


def test_standard_error_is_the_default(manager, operation, capsys):
    with ProgressDisplay(manager), operation("Copying", 10):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Copying: started\nCopying: 100%")


def test_the_event_manager_of_the_process_is_the_default(monkeypatch):
    from encore.events import package_globals

    monkeypatch.setattr(package_globals, "_event_manager", None)
    with ProgressDisplay(stream=io.StringIO()) as display:
        assert display.event_manager is package_globals.get_event_manager()


# Streams that fail


class Failing(io.StringIO):
    def __init__(self, error, tty):
        super().__init__()
        self.error = error
        self.tty = tty

    def isatty(self):
        return self.tty

    def write(self, text):
        raise self.error


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("closed"), OSError(28, "full")])
def test_a_broken_stream_harms_nobody(manager, operation, clock, error, tty):
    with ProgressDisplay(manager, stream=Failing(error, tty), clock=clock) as display:
        for cls, listener, attributes in (
            (ProgressStartEvent, display.start_listener, {"steps": 10}),
            (ProgressStepEvent, display.step_listener, {"step": 1}),
            (ProgressEndEvent, display.end_listener, {"exit_state": "error"}),
        ):
            clock.now += 100
            listener(cls(None, operation_id=1, message="x", **attributes))
        assert display.writers == {}


def test_a_stream_closed_in_between(manager, operation, clock):
    stream = io.StringIO()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    with operation("Copying", 10) as progress:
        stream.close()
        clock.now += 100
        progress.step(step=5)
    display.close()


# Odd events


def test_events_in_an_odd_order(bars, manager, clock):
    display = bars()
    manager.emit(ProgressStepEvent(None, operation_id=1, message="m", step=1))
    manager.emit(ProgressEndEvent(None, operation_id=1, message="m", exit_state="normal"))
    assert display.terminal.getvalue() == ""
    manager.emit(ProgressStartEvent(None, operation_id=1, message="m", steps=2))
    manager.emit(ProgressEndEvent(None, operation_id=1, message="m", exit_state="normal"))
    manager.emit(ProgressEndEvent(None, operation_id=1, message="m", exit_state="normal"))
    manager.emit(ProgressStepEvent(None, operation_id=1, message="m", step=1))
    assert len(display.terminal.lines) == 1
    assert display.writers == {}


def test_an_operation_that_starts_twice_has_one_line(bars, manager):
    display = bars()
    for message in ("first", "second"):
        manager.emit(ProgressStartEvent(None, operation_id=1, message=message, steps=2))
    assert [line.split()[0] for line in display.terminal.lines] == ["second"]
    assert len(display.writers) == 1
    manager.emit(ProgressEndEvent(None, operation_id=1, message="second", exit_state="normal"))
    assert [line.split()[0] for line in display.terminal.lines] == ["second"]


def test_events_without_attributes(bars, log, manager, clock):
    display = bars()
    for cls in (ProgressStepEvent, ProgressStartEvent, ProgressStepEvent, ProgressEndEvent):
        clock.now += 1
        manager.emit(cls())
    assert display.terminal.lines == ["✓  0  in 2.0 s"]
    assert log.text() == "started\n0 (in 2.0 s), done\n"


@pytest.mark.parametrize(
    ("steps", "step", "part"),
    [
        (10, 20, "100%  20/10"),
        (0, 0, "100%  0/0"),
        (0, 3, "100%  3/0"),
        (2.5, 1.25, "50%"),
        (10, None, "0%"),
        (10, -1, "0%"),
        (10, "x", "0%"),
        (10, float("nan"), "0%"),
        (None, 5, "⠋  5"),
        (-1, 5, "⠋  5"),
        ("many", 5, "⠋  5"),
        (float("inf"), 5, "⠋  5"),
        (True, 5, "⠋  5"),
        (10**400, 5, "⠋  5"),
    ],
)
def test_odd_numbers(bars, operation, clock, steps, step, part):
    display = bars()
    progress = operation("Copying", steps)
    progress.start()
    clock.now += 1
    progress.step("Copying", step if step is not None else -1)
    assert part in display.terminal.lines[0]
    progress.end()


@pytest.mark.parametrize("message", [None, 5, b"x", ["a"], object()])
def test_odd_messages(bars, operation, clock, message):
    display = bars()
    progress = operation(message, 10)
    progress.start()
    clock.now += 1
    progress.step(step=5)
    progress.end(message, "error")
    assert "50%" in display.terminal.lines[0]


def test_ids_that_cannot_be_hashed(bars, operation, clock):
    display = bars()
    progress = operation("Copying", 10, operation_id=["a", {}])
    progress.start()
    assert list(display.writers) == ["['a', {}]"]
    clock.now += 1
    progress.step(step=5)
    assert "50%" in display.terminal.lines[0]
    progress.end()
    assert display.writers == {}


def test_the_unit_may_come_with_the_steps_only(bars, manager, clock):
    display = bars()
    manager.emit(ProgressStartEvent(None, operation_id=1, message="m", steps=2048))
    clock.now += 1
    manager.emit(ProgressStepEvent(None, operation_id=1, message="m", step=1024, unit="B"))
    assert "1.0/2.0 KiB" in display.terminal.lines[0]


def test_only_operations_that_match_the_filter_are_shown(bars, operation):
    display = bars(filter={"unit": "files"})
    with operation("bytes", 10, unit="B") as progress:
        progress.step(step=5)
    with operation("files", 10, unit="files"):
        pass
    assert [line.split()[0] for line in display.terminal.lines] == ["files"]


def test_other_events_are_none_of_its_business(bars, manager):
    display = bars()
    for cls in (BaseEvent, ProgressEvent):
        manager.emit(cls(None, operation_id=1))
    assert display.terminal.getvalue() == ""


# Writers of one's own


class Writer:
    made = []

    def __init__(self, *args):
        self.args = args
        self.events = []
        self.made.append(self)

    def step_listener(self, event):
        self.events.append(event.step)

    def end_listener(self, event):
        self.events.append(event.exit_state)


def test_writers_may_be_replaced(manager, operation):
    class Display(ProgressDisplay):
        progress_writer = type("Bar", (Writer,), {"made": []})
        spin_writer = type("Spin", (Writer,), {"made": []})

    display = Display(manager, stream=io.StringIO())
    with operation("Copying", 10, operation_id="a") as progress:
        assert display.writers == {"a": Display.progress_writer.made[0]}
        progress.step(step=3)
    with operation("Scanning", operation_id="b") as progress:
        assert display.writers == {"b": Display.spin_writer.made[0]}
        progress.step(step=4)
    assert display.writers == {}
    assert Display.progress_writer.made[0].args == (display, "a", 10)
    assert Display.progress_writer.made[0].events == [3, "normal"]
    assert Display.spin_writer.made[0].args == (display, "b")
    assert Display.spin_writer.made[0].events == [4, "normal"]


def test_a_writer_may_remove_itself_and_may_be_restarted_in_its_end(manager, operation):
    class Removing(Writer):
        made = []

        def end_listener(self, event):
            del self.args[0].writers[self.args[1]]

    class Restarting(Writer):
        made = []

        def end_listener(self, event):
            manager.emit(ProgressStartEvent(None, operation_id=self.args[1], message="", steps=3))

    display = ProgressDisplay(manager, stream=io.StringIO())
    display.progress_writer = Removing
    with operation("Copying", 10, operation_id="a"):
        pass
    assert display.writers == {}
    display.progress_writer = Restarting
    with operation("Copying", 10, operation_id="a"):
        pass
    assert display.writers == {"a": Restarting.made[1]}
    manager.emit(ProgressStartEvent(None, operation_id="a", message="", steps=3))
    assert display.writers == {"a": Restarting.made[2]}


def test_a_writer_that_raises_is_forgotten_at_its_end(manager, operation, caplog):
    class Raising(Writer):
        made = []

        def end_listener(self, event):
            raise RuntimeError("of its own")

    display = ProgressDisplay(manager, stream=io.StringIO())
    display.progress_writer = Raising
    with operation("Copying", 10):
        pass
    assert display.writers == {}
    assert "of its own" in caplog.text
    caplog.clear()


def test_writers_may_be_used_without_a_start_event(bars, clock):
    display = bars()
    writer = ProgressWriter(display, "a", 10)
    spinner = SpinWriter(display, "b")
    clock.now += 1
    writer.step_listener(ProgressStepEvent(None, operation_id="a", message="Copying", step=5))
    assert display.terminal.lines[0].startswith("Copying  ━")
    for one in (writer, spinner, writer):
        one.end_listener(ProgressEndEvent(None, operation_id="a", message="", exit_state="normal"))
    assert len(display.terminal.lines) == 2
    assert writer.display is display
    assert repr(writer) == "<ProgressWriter of 'a': Meter(count=5, total=10)>"


# Life and threads


def test_close_disconnects_and_leaves_what_is_shown(bars, manager, operation, clock):
    with bars() as display:
        progress = operation("Copying", 10)
        progress.start()
        progress.step(step=5)  # too early for a repaint, but not for the last one
        writer = next(iter(display.writers.values()))
    lines = display.terminal.lines
    assert len(lines) == 1
    assert "50%" in lines[0]
    assert display.writers == {}
    assert not manager.has_listeners(ProgressStepEvent)
    clock.now += 10
    progress.step(step=6)
    writer.step_listener(ProgressStepEvent(None, step=7))
    writer.start_listener(ProgressStartEvent(None, message="again"))
    writer.end_listener(ProgressEndEvent(None, exit_state="normal"))
    ProgressWriter(display, "b", 10).start_listener(ProgressStartEvent(None, message="again"))
    assert display.terminal.lines == lines
    assert display.terminal.screen.column == 0
    display.close()


def test_a_display_dropped_while_operations_run_is_freed_at_once(manager, operation, clock):
    gc.disable()
    try:
        display = ProgressDisplay(manager, stream=io.StringIO(), clock=clock)
        progress = operation("Copying", 10)
        progress.start()
        progress.step(step=3)
        writer = next(iter(display.writers.values()))
        gone = weakref.ref(display)
        del display
        assert gone() is None
        assert writer.display is None
        progress.end()
    finally:
        gc.enable()


def test_repr(bars, operation):
    display = bars()
    operation("Copying", 10).start()
    assert repr(display).startswith("<ProgressDisplay showing 1 operations on Stream(")
    assert repr(display._screen).startswith("<Bars with 1 operations on Stream(")


def test_a_stream_that_emits_progress_itself_does_not_block(manager, operation, clock):
    class Chatty(io.StringIO):
        def write(self, text):
            if "inner" not in text:
                with operation("inner", 10) as inner:
                    inner.step(step=5)
            return super().write(text)

    stream = Chatty()
    with ProgressDisplay(manager, stream=stream, clock=clock), operation("outer", 10):
        pass
    lines = stream.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["outer", "inner", "inner"] * 2


def test_closing_from_within_the_stream_does_not_block(manager, operation, clock):
    class Closing(io.StringIO):
        def write(self, text):
            display.close()
            return super().write(text)

    stream = Closing()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    operation("outer", 10).start()
    assert stream.getvalue() == "outer: started\n"


def test_a_stream_that_blocks_holds_up_nobody_else(manager, operation, clock):
    blocked, resume = threading.Event(), threading.Event()

    class Slow(io.StringIO):
        def write(self, text):
            blocked.set()
            assert resume.wait(DEADLINE)
            return super().write(text)

    stream = Slow()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    thread = threading.Thread(target=operation("one", 10).start)
    thread.start()
    assert blocked.wait(DEADLINE)
    with operation("two", 10) as progress:  # returns though the stream does not
        clock.now += 100
        progress.step(step=5)
    assert stream.getvalue() == ""
    resume.set()
    thread.join(DEADLINE)
    display.close()
    assert [line.split(":")[0] for line in stream.getvalue().splitlines()] == ["one", "two", "two"]


def test_close_waits_for_what_another_thread_is_writing(manager, operation, clock):
    blocked, resume = threading.Event(), threading.Event()

    class Slow(io.StringIO):
        def write(self, text):
            blocked.set()
            assert resume.wait(DEADLINE)
            return super().write(text)

    stream = Slow()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    painter = threading.Thread(target=operation("one", 10).start)
    painter.start()
    assert blocked.wait(DEADLINE)
    closer = threading.Thread(target=display.close)
    closer.start()
    resume.set()
    closer.join(DEADLINE)
    assert stream.getvalue() == "one: started\n"
    painter.join(DEADLINE)


def test_an_interrupt_while_painting_leaves_the_display_usable(manager, operation, clock):
    class Interrupted(io.StringIO):
        def write(self, text):
            if "first" in text:
                raise KeyboardInterrupt
            return super().write(text)

    stream = Interrupted()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        display.start_listener(ProgressStartEvent(None, operation_id=1, message="first", steps=3))
    display.start_listener(ProgressStartEvent(None, operation_id=2, message="second", steps=3))
    assert stream.getvalue() == "second: started\n"


@pytest.mark.parametrize("tty", [True, False])
def test_many_threads(bars, log, operation, tty, clock):
    display = bars(80, 30) if tty else log
    barrier = threading.Barrier(8, timeout=DEADLINE)

    def run(name):
        barrier.wait()
        for round in range(5):
            with operation(f"{name}-{round}", 50) as progress:
                for step in range(1, 51):
                    clock.now += 0.01
                    progress.step(step=step)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert display.writers == {}
    names = {f"{name}-{round}" for name in range(8) for round in range(5)}
    if tty:
        lines = display.terminal.lines
        assert len(lines) == 40
        assert {line.split()[0] for line in lines} == names
        assert all("100%" in line for line in lines)
        assert not display.terminal.screen.wrapped
    else:
        ended = [line.split(":")[0] for line in display.text().splitlines() if ", done" in line]
        assert len(ended) == 40
        assert set(ended) == names
