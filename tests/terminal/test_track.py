from __future__ import annotations

import gc
import io
import subprocess
import sys
import threading

import pytest

from encore.events import progress_events
from encore.events.api import (
    Cancelled,
    ProgressEvent,
    ProgressStartEvent,
    ProgressStepEvent,
)
from encore.events.event_manager import EventManager
from encore.terminal import tracking
from encore.terminal.api import ProgressDisplay, ProgressWriter, track

DEADLINE = 30
OWN = {"Start": "steps", "Step": "step", "End": "exit_state"}


class Events(list):
    """What is told of each event: its kind, and what is its own."""

    def listen(self, event):
        kind = type(event).__name__.removeprefix("Progress").removesuffix("Event")
        self.append((kind, getattr(event, OWN[kind])))
        self.last = event


@pytest.fixture
def events(manager):
    events = Events()
    manager.connect(ProgressEvent, events.listen)
    return events


@pytest.fixture
def errors(capsys):
    """What was written to standard error."""

    class Errors:
        text = ""

        def getvalue(self):
            self.text += capsys.readouterr().err
            return self.text

    return Errors()


def fail_in(items):
    for _ in items:
        raise ValueError("of the body")


def test_a_step_follows_each_item(manager, events):
    seen = []
    for item in track("abc", "Reading", event_manager=manager, unit="letters"):
        seen.append((item, len(events)))
    assert seen == [("a", 1), ("b", 2), ("c", 3)]
    assert events == [("Start", 3), ("Step", 1), ("Step", 2), ("Step", 3), ("End", "normal")]
    assert (events.last.message, events.last.unit) == ("Reading", "letters")
    assert not hasattr(events.last, "complete")


class Sized:
    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter("ab")

    def __len__(self):
        if isinstance(self.size, Exception):
            raise self.size
        return self.size


class Hinted(Sized):
    __len__ = None

    def __length_hint__(self):
        return self.size


@pytest.mark.parametrize(
    ("iterable", "total", "steps"),
    [
        ("ab", None, 2),
        ({1, 2, 3}, None, 3),
        (iter([1, 2]), None, 2),
        ((one for one in "ab"), None, -1),
        (map(str, "ab"), None, -1),
        ([], None, 0),
        ((one for one in "ab"), 7, 7),
        ("ab", 0, 0),
        ("ab", 2.5, 2.5),
        (Sized(5), None, 5),
        (Sized(RuntimeError("not now")), None, -1),
        (Sized(-1), None, -1),
        (Hinted(6), None, 6),
        (Hinted(NotImplemented), None, -1),
        (Hinted("many"), None, -1),
    ],
)
def test_the_total_is_what_is_known_of_it(manager, events, iterable, total, steps):
    items = list(track(iterable, "x", total, manager))
    assert events[0] == ("Start", steps)
    assert events[-1] == ("End", "normal")
    assert len(events) == len(items) + 2


def test_what_cannot_be_iterated_over_is_refused_at_once(manager, events):
    with pytest.raises(TypeError, match="not iterable"):
        track(5, "x", event_manager=manager)
    assert events == []


def test_nothing_happens_before_the_first_item_is_asked_for(manager, events):
    items = track("ab", "x", event_manager=manager)
    assert events == []
    assert iter(items) is items
    items.close()
    assert events == []


def test_a_break_ends_the_operation_where_it_is(manager, events):
    for item in track("abcd", "x", event_manager=manager):
        if item == "c":
            break
    assert events == [("Start", 4), ("Step", 1), ("Step", 2), ("End", "normal")]
    assert events.last.complete is False


def test_an_exception_in_the_body_ends_it_too(manager, events):
    with pytest.raises(ValueError, match="of the body"):
        fail_in(track("abcd", "x", event_manager=manager))
    assert events == [("Start", 4), ("End", "normal")]
    assert events.last.complete is False


@pytest.mark.parametrize(
    ("error", "message"),
    [(OSError("disk full"), "disk full"), (KeyboardInterrupt(), "interrupted")],
)
def test_an_exception_of_the_iterable_is_told(manager, events, error, message):
    def items():
        yield 1
        raise error

    with pytest.raises(type(error)):
        for _ in track(items(), "x", event_manager=manager):
            pass
    assert events == [("Start", -1), ("Step", 1), ("End", "exception")]
    assert events.last.message == message


def test_a_bar_that_is_left_early_keeps_its_place(manager, clock, fake_terminal):
    terminal = fake_terminal(60)
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        for item in track(range(10), "Searching", event_manager=manager):
            clock.now += 1
            if item == 4:
                break
        for _ in track(iter("abc"), "Reading", event_manager=manager):
            pass
    first, reason, second = terminal.lines
    assert reason == "stopped"
    assert first == "Searching  ━━━━━────────   40%   4/10   48.0/min   in 5.0 s"
    assert "100%" in second
    assert terminal.screen.codes >= {"36", "32"}


def test_a_loop_that_is_left_early_in_a_log(manager, clock):
    log = io.StringIO()
    with ProgressDisplay(manager, stream=log, clock=clock):
        for _ in track(range(10), "Searching", event_manager=manager):
            break
    assert log.getvalue().splitlines()[-1] == "Searching: 0% (0/10, in 0.0 s), stopped"


def test_loops_are_nested(manager, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        for _ in track(range(2), "outer", event_manager=manager):
            for _ in track(range(3), "inner", event_manager=manager):
                pass
    assert [line.split("  ━")[0] for line in terminal.lines] == ["outer  ", "  inner", "  inner"]


@pytest.mark.parametrize("name", ["description", "desc", "steps", "operation_id", "source"])
def test_a_keyword_that_is_misspelt_is_refused(manager, name):
    with pytest.raises(TypeError, match=name):
        track("ab", event_manager=manager, **{name: "d"})


def test_a_loop_that_is_not_nested(manager, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        for _ in track("ab", "outer", event_manager=manager):
            for _ in track("ab", "other", event_manager=manager, parent=None):
                pass
            break
    assert [line.split("  ")[0] for line in terminal.lines] == ["other", "outer", "stopped"]


class Token:
    cancelled = False


def test_a_loop_that_is_cancelled(manager, events):
    token = Token()
    seen = []
    with pytest.raises(Cancelled):  # noqa: PT012
        for item in track("abc", "x", event_manager=manager, cancel=token):
            seen.append(item)
            token.cancelled = item == "b"
    assert seen == ["a", "b"]
    assert events == [("Start", 3), ("Step", 1), ("End", "warning")]


def test_a_loop_is_cancelled_where_only_a_display_listens(manager, clock, fake_terminal):
    token = Token()
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):  # noqa: SIM117
        with pytest.raises(Cancelled):  # noqa: PT012
            for item in track("abcd", "x", event_manager=manager, cancel=token):
                token.cancelled = item == "c"
    assert "50%" in terminal.lines[0]
    assert terminal.lines[1] == "WARNING: cancelled"


# Without events


@pytest.fixture
def made(monkeypatch):
    """The step events that are made."""
    made = []
    make_event = progress_events.make_event

    def make(cls, attributes):
        if issubclass(cls, ProgressStepEvent):
            made.append(attributes["step"])
        return make_event(cls, attributes)

    monkeypatch.setattr(progress_events, "make_event", make)
    return made


def test_a_display_alone_needs_no_events_and_counts_exactly(manager, clock, fake_terminal, made):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock) as display:
        for number in track(range(1000), "Counting", event_manager=manager):
            if number == 600:
                display.write("text")
                assert " 600/1,000" in terminal.lines[1]
            if number == 700:
                break
    assert len(made) <= 1
    assert " 700/1,000" in terminal.lines[1]


def test_a_slow_loop_is_painted_at_each_item(manager, clock, fake_terminal):
    terminal = fake_terminal()
    seen = []
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        for _ in track(range(100), "Counting", event_manager=manager):
            clock.now += 0.1
            seen.append(terminal.lines[0].split("/100")[0].split()[-1])
    assert seen == [str(n) for n in range(100)]


def test_a_tight_loop_that_becomes_slow_is_painted_again(manager, clock, fake_terminal):
    terminal = fake_terminal()
    with ProgressDisplay(manager, stream=terminal, clock=clock):
        for number in track(range(100), "Counting", event_manager=manager):
            if number >= 50:
                clock.now += 1
            if number >= 50 + tracking._SKIPPED:
                assert f" {number}/100 " in terminal.lines[0]


def test_who_listens_from_the_middle_of_a_loop_on_gets_each_step(manager, clock, fake_terminal):
    terminal = fake_terminal()
    events = Events()
    with ProgressDisplay(manager, stream=terminal, clock=clock) as display:
        for number in track(range(100), "Counting", event_manager=manager):
            if number == 50:
                manager.connect(ProgressStepEvent, events.listen)
            elif number == 60:
                display.write("text")
                assert " 60%" in terminal.lines[1]
                manager.disconnect(ProgressStepEvent, events.listen)
            elif number == 70:
                display.write("text")
                assert " 70%" in terminal.lines[2]
    assert events == [("Step", step) for step in range(51, 61)]


def veto(*args):
    return False


@pytest.mark.parametrize(
    "who", ["tracer", "second display", "emit", "emit of the class", "writer", "hold"]
)
def test_who_else_wants_to_see_steps_sees_each_of_them(manager, clock, made, who, monkeypatch):
    displays = [ProgressDisplay(manager, stream=io.StringIO(), clock=clock)]
    loop = track(range(100), "Counting", event_manager=manager)
    if who == "second display":
        displays.append(ProgressDisplay(manager, stream=io.StringIO(), clock=clock))
    elif who == "emit":
        monkeypatch.setattr(manager, "emit", manager.emit)
    elif who == "emit of the class":
        emit = EventManager.emit

        def patched(manager, event, block=True):
            return emit(manager, event, block)

        monkeypatch.setattr(EventManager, "emit", patched)
    elif who == "writer":

        class Writer(ProgressWriter):
            def step_listener(self, event):
                super().step_listener(event)

        displays[0].progress_writer = Writer
    elif who == "tracer":
        manager.set_trace(veto)
    if who == "hold":
        with manager.held(ProgressStepEvent):
            list(loop)
    else:
        list(loop)
    for display in displays:
        display.close()
    assert made == list(range(1, 101))


def test_nobody_who_listens_costs_no_event(manager, clock, made):
    with ProgressDisplay(manager, stream=io.StringIO(), clock=clock, filter={"unit": "B"}):
        assert len(list(track(range(100), "x", event_manager=manager))) == 100
    assert len(list(track(range(100), "x", event_manager=manager))) == 100
    assert len(made) <= 1


def test_a_loop_outlives_the_display_that_shows_it(manager, clock):
    log = io.StringIO()
    display = ProgressDisplay(manager, stream=log, clock=clock)
    for number in track(range(100), "x", event_manager=manager):
        clock.now += 1
        if number == 50:
            display.close()
    assert "50%" in log.getvalue()
    assert "60%" not in log.getvalue()


# Its own display


def test_nobody_who_listens_means_a_display_for_the_loop(process_manager, errors):
    for number in track(range(3), "Counting"):
        assert process_manager.has_listeners(ProgressStartEvent)
        if number == 0:
            assert errors.getvalue() == "Counting: started\n"
    started, ended = errors.getvalue().splitlines()
    assert started == "Counting: started"
    assert ended.startswith("Counting: 100% (3, ")
    assert not process_manager.has_listeners(ProgressEvent)
    assert not process_manager.has_listeners(ProgressStartEvent)


def test_the_display_goes_with_a_loop_that_is_left(process_manager, errors):
    for _ in track(range(3), "Counting"):
        break
    assert not process_manager.has_listeners(ProgressStartEvent)
    with pytest.raises(ValueError, match="of the body"):
        fail_in(track(range(3), "Counting"))
    assert not process_manager.has_listeners(ProgressStartEvent)
    assert errors.getvalue().count("stopped") == 2


def test_an_inner_loop_uses_the_display_of_the_outer_one(process_manager, errors):
    for _ in track(range(2), "outer"):
        for _ in track(range(2), "inner"):
            pass
    told = [line.split(":")[0] for line in errors.getvalue().splitlines()]
    assert told == ["outer", "outer"]  # they are too short for a log


def test_a_listener_that_is_there_already_is_enough(process_manager, errors):
    events = Events()
    process_manager.connect(ProgressEvent, events.listen)
    assert list(track("ab", "x")) == ["a", "b"]
    assert events == [("Start", 2), ("Step", 1), ("Step", 2), ("End", "normal")]
    assert errors.getvalue() == ""


def test_a_display_that_is_off_is_respected(process_manager, errors):
    with ProgressDisplay(mode="off"):
        assert list(track("ab", "x")) == ["a", "b"]
    assert errors.getvalue() == ""


def test_an_event_manager_that_is_named_gets_no_display(process_manager, errors, manager):
    assert list(track("ab", "x", event_manager=manager)) == ["a", "b"]
    assert errors.getvalue() == ""


def test_loops_of_several_threads_share_a_display(process_manager, errors):
    entered = threading.Barrier(4, timeout=DEADLINE)
    first_ends, others_end = threading.Event(), threading.Event()

    def run(name, end):
        for item in track(range(2), name):
            if item == 0:
                entered.wait()
            assert end.wait(DEADLINE)

    first = threading.Thread(target=run, args=("first", first_ends))
    others = [threading.Thread(target=run, args=(f"other {n}", others_end)) for n in range(2)]
    for thread in (first, *others):
        thread.start()
    entered.wait()
    assert sorted(errors.getvalue().splitlines()) == [
        *("first: started", "other 0: started", "other 1: started")
    ]
    first_ends.set()
    first.join(DEADLINE)
    assert tracking._shared is not None  # it is still needed
    others_end.set()
    for thread in others:
        thread.join(DEADLINE)
    ended = [line.split(":")[0] for line in errors.getvalue().splitlines() if "100%" in line]
    assert ended[0] == "first"
    assert sorted(ended) == ["first", "other 0", "other 1"]
    assert tracking._shared is None
    assert not process_manager.has_listeners(ProgressStartEvent)


def test_a_loop_that_starts_while_the_display_is_being_closed_gets_another(
    process_manager, monkeypatch
):
    closing, go_on = threading.Event(), threading.Event()

    slow, errors = io.StringIO(), io.StringIO()
    real_close = tracking._LoopDisplay.close

    def close(display):
        closing.set()
        assert go_on.wait(DEADLINE)
        real_close(display)

    monkeypatch.setattr(tracking._LoopDisplay, "close", close)
    monkeypatch.setattr(sys, "stderr", slow)
    thread = threading.Thread(target=lambda: list(track("a", "first")))
    thread.start()
    assert closing.wait(DEADLINE)
    monkeypatch.setattr(sys, "stderr", errors)
    items = track("b", "second")
    assert next(items) == "b"
    assert errors.getvalue() == "second: started\n"
    assert "second" not in slow.getvalue()
    go_on.set()
    thread.join(DEADLINE)
    assert list(items) == []
    assert "second: 100%" in errors.getvalue()
    assert not process_manager.has_listeners(ProgressStartEvent)
    assert tracking._closing == []


def test_many_threads_with_short_loops(process_manager, errors):
    def run(name):
        for round in range(20):
            for _ in track(range(2), f"{name}-{round}"):
                pass

    threads = [threading.Thread(target=run, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    ended = [line.split(":")[0] for line in errors.getvalue().splitlines() if "100%" in line]
    assert sorted(ended) == sorted(f"{name}-{round}" for name in range(8) for round in range(20))
    assert tracking._shared is None
    assert tracking._closing == []
    assert not process_manager.has_listeners(ProgressStartEvent)


def test_an_iterator_that_is_thrown_away_ends_its_operation(process_manager, errors):
    gc.disable()
    try:
        items = track(range(3), "Counting")
        next(items)
        del items
        assert errors.getvalue().endswith("stopped\n")
        assert not process_manager.has_listeners(ProgressStartEvent)
    finally:
        gc.enable()


# Where it is found


def test_it_can_be_imported_from_the_package():
    code = """
import sys
import encore.terminal
assert "encore.terminal.api" not in sys.modules
from encore.terminal import track, ProgressDisplay
import encore.terminal.tracking
from encore.terminal import track
assert callable(track) and track is encore.terminal.api.track
assert encore.terminal.ProgressDisplay is ProgressDisplay
try:
    encore.terminal.nothing
except AttributeError as exc:
    assert "nothing" in str(exc)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=DEADLINE)
