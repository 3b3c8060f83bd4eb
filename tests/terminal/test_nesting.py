"""Operations in operations: what is indented, what stays, and what happens if there are many."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import io
import threading
import weakref

import pytest

from encore.terminal import _nesting
from encore.terminal.api import ProgressDisplay

DEADLINE = 30


@pytest.fixture
def show(manager, clock, fake_terminal):
    """Makes a display on a terminal of this size and returns the terminal."""
    displays = []

    def make(columns=80, lines=24):
        stream = fake_terminal(columns, lines)
        displays.append(ProgressDisplay(manager, stream=stream, clock=clock))
        stream.display = displays[-1]
        return stream

    yield make
    for display in displays:
        display.close()


def names(lines):
    """The indentation and the first column of each line."""
    found = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        found.append(line[:indent] + line[indent:].split("  ")[0])
    return found


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()


# What is nested in what


def test_an_operation_within_another_is_indented_below_it(show, operation, clock):
    terminal = show()
    with operation("Building", 2) as outer:
        with operation("Compiling", 10) as inner:
            clock.now += 1
            inner.step(step=5)
            assert terminal.lines == [
                "Building     ───────────────────────────────    0%    0/2",
                "  Compiling  ━━━━━━━━━━━━━━━╸───────────────   50%   5/10      5.0/s   1 s left",
            ]
            with operation("Parsing"):
                assert names(terminal.lines) == ["Building", "  Compiling", "    Parsing"]
        outer.step(step=1)
        with operation("Linking"):
            assert names(terminal.lines) == ["Building", "  Compiling", "    Parsing", "  Linking"]
    assert names(terminal.lines) == ["Building", "  Compiling", "    Parsing", "  Linking"]
    with operation("Testing"):
        assert names(terminal.lines)[-1] == "Testing"


def test_columns_stand_in_line_whatever_the_indentation(show, operation, clock):
    terminal = show(60)
    with operation("a", 10), operation("b", 10), operation("c", 10):
        clock.now += 1
    assert len({line.index("%") for line in terminal.lines}) == 1
    assert not terminal.screen.wrapped


def test_threads_have_nothing_to_do_with_each_other(show, operation):
    terminal = show()
    one, two = operation("one"), operation("two")
    one_inner, two_inner = operation("one inner"), operation("two inner")
    steps = [threading.Event() for _ in range(4)]

    def run(outer, inner, first, second):
        assert steps[first].wait(DEADLINE)
        outer.start()
        steps[first + 1].set()
        assert steps[second].wait(DEADLINE)
        inner.start()

    threads = [
        threading.Thread(target=run, args=(one, one_inner, 0, 2)),
        threading.Thread(target=run, args=(two, two_inner, 1, 2)),
    ]
    for thread in threads:
        thread.start()
    steps[0].set()
    for thread in threads:
        thread.join(DEADLINE)
    assert names(terminal.lines) == ["one", "  one inner", "two", "  two inner"]


def test_tasks_have_nothing_to_do_with_each_other(show, operation):
    terminal = show()

    async def job(name, started, go):
        with operation(name):
            started.set()
            await go.wait()
            with operation(f"{name} inner"):
                return names(terminal.lines)

    async def main():
        started, go = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(job("one", started, go))
        await started.wait()
        second = asyncio.create_task(job("two", started, go))
        await asyncio.sleep(0)
        go.set()
        return await first, await second

    shown = asyncio.run(main())[1]
    assert [name for name in shown if "two" in name] == ["two", "  two inner"]


def test_a_job_that_has_the_context_of_its_submitter_is_nested_in_its_operation(show, operation):
    terminal = show()
    with operation("Copying all"):
        inner = operation("Copying one")
        context = contextvars.copy_context()
        in_thread(lambda: context.run(inner.start))
        assert names(terminal.lines) == ["Copying all", "  Copying one"]


def test_a_parent_may_be_named(show, operation):
    terminal = show()
    whole = operation("whole", operation_id="w")
    whole.start()
    in_thread(operation("part", parent="w").start)
    assert names(terminal.lines) == ["whole", "  part"]
    operation("on its own", parent=None).start()
    assert names(terminal.lines) == ["whole", "  part", "on its own"]


@pytest.mark.parametrize("parent", ["unknown", ["not", {}], object(), "self", 0])
def test_a_parent_that_is_not_there_is_none(show, operation, parent):
    terminal = show()
    with operation("other"):
        operation("part", operation_id="self", parent=parent).start()
        assert names(terminal.lines) == ["other", "part"]


def test_a_parent_whose_id_cannot_be_hashed(show, operation):
    terminal = show()
    operation("whole", operation_id=["a", {}]).start()
    in_thread(operation("part", parent=["a", {}]).start)
    assert names(terminal.lines) == ["whole", "  part"]


def test_what_runs_on_after_its_parent_moves_up(show, operation):
    terminal = show()
    outer, middle, inner = operation("outer"), operation("middle"), operation("inner")
    for one in (outer, middle, inner):
        one.start()
    middle.end()
    assert names(terminal.lines) == ["outer", "  middle", "  inner"]
    outer.end()
    assert names(terminal.lines) == ["outer", "  middle", "inner"]
    inner.end()
    assert names(terminal.lines) == ["outer", "  middle", "inner"]
    assert terminal.display._screen._forest.roots == []


def test_an_operation_that_starts_again_leaves_those_in_it_behind(show, operation):
    terminal = show()
    operation("outer", operation_id=1).start()
    inner = operation("inner")
    inner.start()
    operation("outer again", operation_id=1, parent=None).start()
    assert names(terminal.lines) == ["inner", "outer again"]
    inner.end()
    assert names(terminal.lines) == ["inner", "outer again"]


def test_two_displays_nest_each_for_itself(show, manager, operation, clock, fake_terminal):
    all_of_them = show()
    other = fake_terminal()
    with ProgressDisplay(manager, stream=other, clock=clock, filter={"unit": "B"}):  # noqa: SIM117
        with operation("files"), operation("bytes", unit="B"):
            assert names(all_of_them.lines) == ["files", "  bytes"]
            assert names(other.lines) == ["bytes"]


def test_lines_of_a_log_are_indented(manager, operation, clock):
    log = io.StringIO()
    with ProgressDisplay(manager, stream=log, clock=clock):  # noqa: SIM117
        with operation("Building", 2), operation("Compiling", 10) as inner, operation(""):
            clock.now += 5
            inner.step(step=5)
            clock.now += 2
            inner.step(step=7)
    assert log.getvalue().splitlines() == [
        "Building: started",
        "  Compiling: started",
        "    started",
        "  Compiling: 70% (7/10, 1.0/s, 3 s left)",
        "    0 (in 7.0 s), done",
        "  Compiling: 100% (7/10, 1.0/s, in 7.0 s), done",
        "Building: 100% (0/2, in 7.0 s), done",
    ]


def test_what_is_nested_and_soon_over_is_told_of_by_what_it_is_nested_in(manager, operation, clock):
    log = io.StringIO()
    with ProgressDisplay(manager, stream=log, clock=clock), operation("Building", 4) as outer:
        for number, end in enumerate(((), ("broken", "error"), ("odd", "warning"), ())):
            inner = operation(f"file {number}", 10)
            inner.start()
            clock.now += 1.9 if number < 3 else 2
            inner.end(*end)
            outer.step(step=number)
    assert [line for line in log.getvalue().splitlines() if "file" in line] == [
        "  file 1: 0% (0/10, in 1.9 s), ERROR: broken",
        "  file 2: 0% (0/10, in 1.9 s), WARNING: odd",
        "  file 3: 100% (0/10, in 2.0 s), done",
    ]


def test_what_outlives_what_it_is_nested_in_is_told_of(manager, operation, clock):
    log = io.StringIO()
    with ProgressDisplay(manager, stream=log, clock=clock):
        outer, inner = operation("Building", 4), operation("file", 10)
        outer.start()
        inner.start()
        outer.end()
        inner.end()
    assert log.getvalue().splitlines()[-1] == "file: 100% (0/10, in 0.0 s), done"


def test_a_thousand_levels(show, operation):
    terminal = show(40, 10)
    operations = [operation(f"level {level}") for level in range(1000)]
    for one in operations:
        one.start()
    assert not terminal.screen.wrapped
    for one in reversed(operations):
        one.end()
    assert len(terminal.screen.lines) == 1000
    assert not terminal.screen.wrapped


# What stays of those that have ended


def test_the_last_ones_that_ended_stay_and_the_others_are_counted(show, operation, clock):
    terminal = show()
    with operation("Copying", 6) as outer:
        for number in range(4):
            operation(f"file {number}").end()
            clock.now += 1
        outer.step(step=4)
        assert names(terminal.lines) == ["Copying", *(f"  file {number}" for number in range(4))]
        operation("file 4").end()
        clock.now += 1
        outer.step(step=5)
        kept = ["Copying", "  file 2", "  file 3", "  file 4", "  … and 2 more done"]
        assert names(terminal.lines) == kept
        with operation("file 5"):
            assert names(terminal.lines) == [*kept[:-1], "  file 5", kept[-1]]
    last = ["Copying", "  file 3", "  file 4", "  file 5", "  … and 3 more done"]
    assert names(terminal.lines) == last


def test_of_a_thousand_that_end_quickly_few_are_painted(show, operation, clock):
    terminal = show()
    with operation("Copying", 1000) as outer:
        writes = terminal.writes
        for number in range(1000):  # one second
            with operation(f"file {number}", 1) as inner:
                inner.step(step=1)
            clock.now += 0.001
            outer.step(step=number + 1)
        assert terminal.writes - writes < 40
    assert names(terminal.lines) == [
        *("Copying", "  file 997", "  file 998", "  file 999", "  … and 997 more done")
    ]
    assert max(map(len, terminal.frames)) <= 7


def test_a_failure_keeps_its_line_and_its_reason_in_place(show, operation, clock):
    terminal = show()
    with operation("Copying", 3):
        operation("one").end("disk\nfull " + "very " * 40, "error")
        operation("two").end()
        told = names(terminal.lines)
        assert told[:2] == ["Copying", "  one"]
        assert told[2].startswith("  ERROR: disk full very")
        assert told[2].endswith("…")  # in full at the end
        assert told[3:] == ["  two"]
    told = names(terminal.lines)
    assert "".join(told).count("very") == 40
    assert told[-1] == "  two"
    assert not terminal.screen.wrapped


def test_a_failure_is_shown_at_once_whatever_was_painted_before(show, operation):
    terminal = show()
    with operation("Copying", 3):
        for number in range(30):
            operation(f"file {number}").end()
        writes = terminal.writes
        operation("quick").end()
        assert terminal.writes == writes
        operation("bad").end("disk full", "error")
        assert "  ERROR: disk full" in terminal.lines


def test_of_many_failures_none_is_lost(show, operation, clock):
    terminal = show()
    with operation("Copying", 3) as outer:
        for number in range(6):
            operation(f"bad {number}").end(f"reason {number}", "error")
            clock.now += 1
        operation("good").end()
        clock.now += 1
        outer.step(step=2)
        assert names(terminal.lines) == [
            *("  bad 0", "  ERROR: reason 0", "  bad 1", "  ERROR: reason 1"),
            *("  bad 2", "  ERROR: reason 2"),
            *("Copying", "  bad 3", "  ERROR: reason 3", "  bad 4", "  ERROR: reason 4"),
            *("  bad 5", "  ERROR: reason 5", "  … and 4 more: 3 failed, 1 done"),
        ]
    text = "\n".join(names(terminal.lines))
    for number in range(6):
        assert text.count(f"reason {number}") == 1


# More than the terminal has room for


def test_those_that_run_come_first_and_what_they_are_part_of(show, operation, clock):
    terminal = show(80, 8)
    whole = operation("whole", 20, operation_id="w")
    whole.start()
    parts = [operation(f"part {number}", 10, parent="w") for number in range(8)]
    for part in parts:
        part.start()
    clock.now += 1
    parts[0].end()
    parts[1].end("bad", "error")
    parts[2].end("odd", "warning")
    clock.now += 1
    whole.step(step=3)
    assert names(terminal.screen.visible[:-1]) == [
        *("whole", "  part 3", "  part 4", "  part 5", "  part 6", "  part 7"),
        "… and 3 more: 1 failed, 1 with warnings, 1 done",
    ]
    for part in parts[3:6]:
        part.end()
        clock.now += 1
    whole.step(step=6)
    # There is room again: for failures first, for the newest before the others.
    assert names(terminal.screen.visible[:-1]) == [
        *("whole", "  part 1", "  ERROR: bad", "  part 5", "  part 6", "  part 7"),
        "… and 4 more: 1 with warnings, 3 done",
    ]


def test_the_roots_are_shown_before_what_is_in_them(show, operation):
    terminal = show(80, 6)
    for number in range(4):
        operation(f"root {number}", operation_id=number, parent=None).start()
        operation(f"leaf {number}", parent=number).start()
    assert names(terminal.lines) == [f"root {number}" for number in range(4)] + ["… and 4 more"]


@pytest.mark.parametrize("height", [1, 2])
def test_where_there_is_no_room_at_all_they_are_counted(show, operation, height):
    terminal = show(40, height)
    for number in range(4):
        operation(f"root {number}", parent=None).start()
    assert terminal.lines[-1] == "4 operations"


def test_failures_that_had_no_room_are_told_when_the_display_is_closed(show, operation):
    terminal = show(80, 6)
    with operation("whole", operation_id="w"):
        parts = [operation(f"part {number}", parent="w") for number in range(6)]
        for part in parts:
            part.start()
        parts[5].end("of its own", "error")
        assert "of its own" not in terminal.getvalue()
        terminal.display.close()
    assert names(terminal.lines)[:2] == ["  part 5", "  ERROR: of its own"]
    assert names(terminal.lines)[-1] == "… and 3 more: 1 failed, 2 running"


def test_twenty_bars_of_eight_threads(show, operation, clock):
    terminal = show(80, 16)
    barrier = threading.Barrier(8, timeout=DEADLINE)
    names_left = [f"bar {number}" for number in range(20)]
    problems = []

    def run():
        try:
            barrier.wait()
            while True:
                try:
                    name = names_left.pop()
                except IndexError:
                    return
                with operation(name, 50) as progress:
                    for step in range(1, 51):
                        clock.now += 0.01
                        progress.step(step=step)
        except Exception as exc:
            problems.append(exc)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert problems == []
    assert sorted(names(terminal.lines)) == sorted(f"bar {number}" for number in range(20))
    assert all("100%" in line for line in terminal.lines)
    assert not terminal.screen.wrapped
    assert all(len(frame) <= 16 for frame in terminal.frames)


# Life


def test_ended_operations_are_forgotten_without_garbage_collection(show, operation):
    writers = show().display.writers
    gone = []
    gc.collect()
    gc.disable()
    try:
        with operation("outer", operation_id="o"):
            gone.append(weakref.ref(writers["o"]))
            for number in range(10):
                with operation("inner", operation_id=number), operation("leaf", operation_id="l"):
                    gone += weakref.ref(writers[number]), weakref.ref(writers["l"])
            operation("failed").end("no", "error")
        assert [one() for one in gone] == [None] * 21
    finally:
        gc.enable()


def test_a_context_that_lives_on_remembers_what_runs_only(show, operation):
    show()
    with operation("outer"):
        for _ in range(100):
            with operation("inner"):
                pass
        with operation("last"):
            assert len(_nesting._started.get()) == 2


def test_a_context_that_lives_on_holds_no_operation(show, operation):
    terminal = show()
    progress = operation("outer", operation_id="o")
    progress.start()
    gone = weakref.ref(terminal.display.writers["o"])
    gc.disable()
    try:
        progress.end()
        assert gone() is None
    finally:
        gc.enable()
