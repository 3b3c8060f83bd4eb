"""What a program has to say while bars are shown: display.write and its log handler."""

from __future__ import annotations

import gc
import io
import logging
import os
import subprocess
import sys
import threading
import weakref
from contextlib import redirect_stdout

import pytest

from encore.events.api import ProgressManager
from encore.terminal import printing
from encore.terminal.api import ProgressDisplay, log_handler, track, write

DEADLINE = 30


@pytest.fixture
def show(manager, clock, fake_terminal):
    def make(columns=80, lines=24, **kwargs):
        stream = fake_terminal(columns, lines)
        stream.display = ProgressDisplay(manager, stream=stream, clock=clock, **kwargs)
        return stream

    return make


def test_text_is_printed_above_the_bars(show, operation, clock):
    terminal = show()
    one, two = operation("one", 10), operation("two", 10, parent=None)
    one.start()
    two.start()
    terminal.display.write("first")
    assert terminal.lines[0] == "first"
    assert [line.split()[0] for line in terminal.lines] == ["first", "one", "two"]
    clock.now += 1
    one.step(step=5)
    terminal.display.write("second\n\n  third\n")
    one.end()
    terminal.display.write("")
    two.end()
    assert [line.split("  ")[0] for line in terminal.lines] == [
        *("first", "second", "", "", "one", "", "two")
    ]
    assert terminal.lines[3] == "  third"
    assert (terminal.screen.row, terminal.screen.column) == (7, 0)


def test_text_without_any_bar(show):
    terminal = show()
    terminal.display.write("only text")
    assert terminal.lines == ["only text"]


@pytest.mark.parametrize("length", [39, 40, 41, 79, 80, 81, 120])
def test_text_longer_than_a_line_leaves_nothing_behind(show, operation, length):
    terminal = show(40, 8)
    operation("x" * 40, 10).start()
    operation("y" * 40, 10, parent=None).start()
    bar = terminal.lines
    text = ("0123456789" * 12)[:length]
    terminal.display.write(f"{text}\nnext")
    assert "".join(terminal.lines[: -(len(bar) + 1)]) == text
    assert terminal.lines[-(len(bar) + 1) :] == ["next", *bar]


def test_text_in_columns_and_colours_keeps_the_bars_clean(show, operation):
    terminal = show()
    operation("bar", 10).start()
    terminal.display.write("a\tb\n\x1b[1;31mred\x1b[0m \x1b[2J\x07 日本\r\nlast\x1b[32m")
    assert terminal.lines[:3] == ["a       b", "red ?[2J? 日本", "last"]
    assert "\x1b[1;31mred\x1b[0m" in terminal.getvalue()
    assert "last\x1b[32m\x1b[0m" in terminal.getvalue()


def test_anything_may_be_written(show):
    terminal = show()
    terminal.display.write(ValueError("an error"))
    assert terminal.lines == ["an error"]


def test_a_file_gets_the_text_as_it_is(manager, operation, clock):
    log = io.StringIO()
    with ProgressDisplay(manager, stream=log, clock=clock) as display, operation("Copying", 10):
        display.write("\x1b[31mone\ttwo")
        display.write("three\nfour\n")
    assert log.getvalue().splitlines() == [
        *("Copying: started", "\x1b[31mone\ttwo", "three", "four"),
        "Copying: 100% (0/10, in 0.0 s), done",
    ]


def test_a_closed_display_still_prints(show, operation):
    terminal = show()
    with terminal.display:
        operation("Copying", 10).start()
    lines = terminal.lines
    terminal.display.write("afterwards")
    terminal.display.write("and again\n")
    assert terminal.lines == [*lines, "afterwards", "and again"]


def test_lines_of_many_threads_are_whole_and_none_is_lost(show, operation, clock):
    terminal = show(60, 10)
    barrier = threading.Barrier(8, timeout=DEADLINE)

    def run(name):
        barrier.wait()
        with operation(f"bar {name}", 20) as progress:
            for step in range(20):
                clock.now += 0.01
                progress.step(step=step)
                terminal.display.write(f"thread {name} line {step}\nand {name} more of {step}")

    threads = [threading.Thread(target=run, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    lines = terminal.lines
    assert len(lines) == 8 + 2 * 160
    for name in range(8):
        mine = [line for line in lines if line.startswith((f"thread {name} ", f"and {name} "))]
        expected = [(f"thread {name} line {n}", f"and {name} more of {n}") for n in range(20)]
        assert mine == [line for pair in expected for line in pair]
        assert lines[lines.index(mine[0]) + 1] == mine[1]


def test_a_thread_that_writes_does_not_wait_for_one_that_is_painting(manager, clock):
    blocked, resume = threading.Event(), threading.Event()

    class Slow(io.StringIO):
        def write(self, text):
            blocked.set()
            assert resume.wait(DEADLINE)
            return super().write(text)

    stream = Slow()
    display = ProgressDisplay(manager, stream=stream, clock=clock)
    painter = threading.Thread(target=display.write, args=("first",))
    painter.start()
    assert blocked.wait(DEADLINE)
    display.write("second")  # returns though the stream does not
    assert stream.getvalue() == ""
    resume.set()
    painter.join(DEADLINE)
    assert stream.getvalue() == "first\nsecond\n"
    display.close()


# Without a display at hand


def test_a_module_level_text_goes_above_the_bars_of_a_loop(
    process_manager, fake_terminal, monkeypatch
):
    terminal = fake_terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    for item in track("ab", "Reading"):
        write(f"item {item}")
    write("afterwards")
    assert [line.split("  ")[0] for line in terminal.lines] == [
        *("item a", "item b", "Reading", "afterwards")
    ]


def test_a_text_for_another_stream_is_none_of_the_displays_business(show, capsys):
    terminal = show()
    write("one")
    write("two\n", sys.stdout)
    write("three", terminal)
    assert (capsys.readouterr().err, terminal.lines) == ("one\n", ["three"])
    write("four", None)
    assert capsys.readouterr().err == "four\n"


def test_a_text_for_no_stream_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    write("nothing")


def test_the_newest_display_on_the_stream_is_taken(manager, clock):
    class Display(ProgressDisplay):
        def write(self, text):
            super().write(f"{self.name}: {text}")

    log = io.StringIO()
    first, second = (Display(manager, stream=log, clock=clock) for _ in range(2))
    other = ProgressDisplay(manager, stream=io.StringIO(), clock=clock)
    first.name, second.name = "first", "second"
    write("text", log)
    second.close()
    write("text", log)
    del first
    gc.collect()
    write("text", log)
    other.close()
    assert log.getvalue().splitlines() == ["second: text", "first: text", "text"]
    assert printing.displays() == []


def test_two_descriptors_of_a_terminal_are_the_same(terminal, manager):
    real = terminal(80)
    other = open(os.dup(real.stream.fileno()), "w")  # noqa: SIM115
    with other, ProgressDisplay(manager, stream=real.stream):
        ProgressManager(manager, None, None, "Copying", 10).start()
        write("text", other)
        assert [line.split("  ")[0] for line in real.lines()] == ["text", "Copying"]


def test_a_module_level_handler_follows_the_displays(show, logger, capsys):
    terminal = show()
    handler = log_handler(logging.WARNING)
    logger.addHandler(handler)
    there = log_handler(stream=terminal)
    logger.addHandler(there)
    logger.info("no display on this one")
    logger.warning("a display on %s", "the other")
    assert terminal.lines == ["no display on this one", "a display on the other"]
    assert capsys.readouterr().err == "a display on the other\n"
    assert repr(handler) == "<DisplayHandler of the newest display>"


def test_it_can_be_imported_from_the_package():
    code = """
import sys
import encore.terminal
assert "encore.terminal.printing" not in sys.modules
from encore.terminal import write, log_handler
from encore.terminal.api import write as same, log_handler as same_handler
assert (write, log_handler) == (same, same_handler)
assert "logging" not in sys.modules
write("text")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, timeout=DEADLINE
    )
    assert done.stderr.split() == [b"text"]


# The stream of a display


def test_what_is_printed_to_the_stream_goes_above_the_bars(show, operation):
    terminal = show()
    stream = terminal.display.stream
    with operation("Copying", 10):
        print("one", "word", file=stream)
        with redirect_stdout(stream):
            print("two", end="", flush=True)
            assert names(terminal) == ["one word", "Copying"]
            print(" words\nand", end=" ")
            assert names(terminal) == ["one word", "two words", "Copying"]
        print("more", file=stream)
        print(file=stream)
        print("unfinished", end="", file=stream)
        assert names(terminal) == ["one word", "two words", "and more", "", "Copying"]
        terminal.display.close()
    assert names(terminal) == ["one word", "two words", "and more", "", "unfinished", "Copying"]
    print("afterwards", file=stream)
    assert names(terminal)[-1] == "afterwards"
    assert repr(stream).startswith("<DisplayStream on Stream(")
    assert stream.writable()


def names(terminal):
    return [line.split("  ")[0] for line in terminal.lines]


def test_unfinished_lines_of_threads_are_not_mixed(show):
    terminal = show()
    stream = terminal.display.stream
    print("mine", end=" ", file=stream)
    thread = threading.Thread(target=print, args=("other",), kwargs={"file": stream})
    thread.start()
    thread.join(DEADLINE)
    print("too", file=stream)
    assert terminal.lines == ["other", "mine too"]


def test_the_stream_does_not_keep_the_display_alive(manager):
    gc.disable()
    try:
        display = ProgressDisplay(manager, stream=io.StringIO())
        gone = weakref.ref(display)
        stream = display.stream
        del display
        assert gone() is None
        stream.write("text\n")
    finally:
        gc.enable()


# Logging


@pytest.fixture
def logger():
    logger = logging.Logger("of the test")
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_records_are_printed_above_the_bars(show, operation, logger):
    terminal = show()
    handler = terminal.display.log_handler(level=logging.WARNING)
    assert isinstance(handler, logging.Handler)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    with operation("Copying", 10):
        logger.info("not of this level")
        logger.warning("%s skipped", 3)
        assert [line.split("  ")[0] for line in terminal.lines] == ["WARNING 3 skipped", "Copying"]
        try:
            raise KeyError("key")
        except KeyError:
            logger.exception("failed")
    lines = terminal.lines
    assert lines[0:3] == ["WARNING 3 skipped", "ERROR failed", "Traceback (most recent call last):"]
    assert lines[-2] == "KeyError: 'key'"
    assert lines[-1].startswith("Copying")
    assert repr(handler).startswith("<DisplayHandler of <ProgressDisplay showing 0 operations")


def test_a_record_that_cannot_be_formatted_is_reported_as_usual(show, logger, capsys):
    terminal = show()
    logger.addHandler(terminal.display.log_handler())
    logger.warning("%d", "no number")
    assert terminal.lines == []
    assert "--- Logging error ---" in capsys.readouterr().err


def test_records_of_a_closed_display_are_not_lost(show, logger):
    terminal = show()
    logger.addHandler(terminal.display.log_handler())
    terminal.display.close()
    logger.warning("late")
    assert terminal.lines == ["late"]


def test_a_listener_that_fails_is_told_of_above_the_bars(show, manager, operation):
    from encore.events.api import ProgressStepEvent

    terminal = show()
    handler = terminal.display.log_handler()
    root = logging.getLogger("encore.events.event_manager")
    root.addHandler(handler)
    try:
        with operation("Copying", 10) as progress:
            manager.connect(ProgressStepEvent, lambda event: 1 / 0)
            progress.step(step=1)
            assert terminal.lines[-2] == "ZeroDivisionError: division by zero"
    finally:
        root.removeHandler(handler)


def test_logging_is_imported_by_those_who_use_it():
    code = """
import sys
from encore.events.api import EventManager, ProgressManager
from encore.terminal.api import ProgressDisplay, track
manager = EventManager()
with ProgressDisplay(manager) as display:
    for _ in track(range(3), "x", event_manager=manager):
        display.write("x")
    assert "logging" not in sys.modules
    display.log_handler()
    assert "logging" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=DEADLINE)
