from __future__ import annotations

import gc
import io
import subprocess
import sys
import threading

import pytest

from encore.events import package_globals
from encore.events.api import EventManager, ProgressEvent, ProgressStartEvent
from encore.terminal import tracking
from encore.terminal.api import ProgressDisplay, track

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
def process_manager(monkeypatch):
    manager = EventManager()
    monkeypatch.setattr(package_globals, "_event_manager", manager)
    return manager


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
    [(OSError("disk full"), "disk full"), (KeyboardInterrupt(), "KeyboardInterrupt")],
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
    first, second = terminal.lines
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
    assert told == ["outer", "  inner", "  inner", "  inner", "  inner", "outer"]


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
