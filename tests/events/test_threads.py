import gc
import os
import subprocess
import sys
import threading

import pytest

from encore.events.api import BaseEvent, EventManager

DEADLINE = 60


class FileEvent(BaseEvent):
    pass


class SaveEvent(FileEvent):
    pass


class OtherEvent(BaseEvent):
    pass


@pytest.fixture(autouse=True)
def switch_often():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def collect_often():
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*threshold)


def run_together(*functions):
    """Run functions on threads of their own that start together; raise what they raise."""
    barrier = threading.Barrier(len(functions))
    errors = []

    def target(function):
        try:
            barrier.wait(DEADLINE)
            function()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=target, args=(function,), daemon=True) for function in functions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    if errors:
        raise errors[0]


def race(*steps, rounds=200):
    """Repeat steps on threads of their own until each has been taken often enough."""
    taken = dict.fromkeys(range(len(steps)), 0)

    def repeat(number):
        try:
            while min(taken.values()) < rounds:
                steps[number](taken[number])
                taken[number] += 1
        finally:
            taken[number] = rounds  # a step that failed must not keep the others waiting

    run_together(*[lambda number=number: repeat(number) for number in range(len(steps))])


def make_listener(calls, name):
    def listener(event):
        calls.append(name)

    return listener


# One of each kind, and an event that all of them let pass.
FILTERS = [None, {"size": 1}, {"tags": ["t"]}, {"size": 1, "name": "x"}]


def matching_event(cls=SaveEvent):
    return cls(size=1, name="x", tags=["t"])


def test_listeners_connected_at_the_same_time_are_all_called_once(manager, calls):
    stop = threading.Event()

    def connect(thread):
        for number in range(40):
            listener = make_listener(calls, (thread, number))
            cls = (BaseEvent, FileEvent, SaveEvent)[number % 3]
            manager.connect(cls, listener, FILTERS[number % len(FILTERS)], number % 5)

    def emit():
        while not stop.is_set():
            manager.emit(matching_event(FileEvent))
            calls.clear()

    emitter = threading.Thread(target=emit, daemon=True)
    emitter.start()
    try:
        run_together(*[lambda thread=thread: connect(thread) for thread in range(16)])
    finally:
        stop.set()
        emitter.join(DEADLINE)
    calls.clear()
    manager.emit(matching_event())
    assert sorted(calls) == [(thread, number) for thread in range(16) for number in range(40)]


def test_connecting_and_disconnecting_together_leaves_what_was_not_disconnected(manager, calls):
    kept = [make_listener(calls, number) for number in range(12)]

    def change(thread):
        for number in range(30):
            filter = FILTERS[(thread + number) % len(FILTERS)]
            listener = make_listener(calls, "gone")
            manager.connect(FileEvent, listener, filter)
            if number == 15:
                manager.connect(FileEvent, kept[thread], filter)
            manager.emit(matching_event())
            manager.disconnect(FileEvent, listener)

    run_together(*[lambda thread=thread: change(thread) for thread in range(12)])
    calls.clear()
    manager.emit(matching_event())
    assert sorted(calls) == list(range(12))


@pytest.mark.parametrize("filter", FILTERS)
def test_a_listener_that_stays_is_called_exactly_once_whatever_else_changes(manager, filter):
    heard = []
    counts = set()
    manager.connect(FileEvent, heard.append, filter)

    def emit(_):
        event = matching_event()
        manager.emit(event)
        counts.add(sum(1 for one in heard if one is event))
        heard.clear()

    def change(number):
        manager.connect(SaveEvent, print, {**(filter or {}), "missing": 1})
        manager.disconnect(SaveEvent, print)
        if number % 10 == 0:
            manager.disable(OtherEvent)
            manager.enable(OtherEvent)

    race(emit, change)
    assert counts == {1}


def test_a_filtered_listener_is_never_called_for_other_events(manager, calls):
    def wrong(event):
        calls.append(event)

    def emit(_):
        manager.emit(matching_event())

    def change(number):
        filter = ({"tags": ["u"]}, {"size": 2}, {"size": 1, "name": "y"})[number % 3]
        manager.connect(FileEvent, wrong, filter)
        if number % 2:
            manager.disconnect(FileEvent, wrong)

    race(emit, emit, change)
    assert calls == []


def test_reconnecting_neither_loses_nor_doubles_the_listener(manager):
    heard = []
    counts = set()
    manager.connect(FileEvent, heard.append)

    def emit(_):
        manager.emit(matching_event())
        counts.add(len(heard))
        heard.clear()

    def change(number):
        manager.connect(FileEvent, heard.append, FILTERS[number % len(FILTERS)], number % 3)

    race(emit, change)
    assert counts == {1}


def test_methods_die_while_others_connect_and_emit(manager, calls, collect_often):
    class Listener:
        def __init__(self):
            self.itself = self

        def heard(self, event):
            pass

    def change():
        for number in range(30):
            manager.connect(SaveEvent, Listener().heard, FILTERS[number % len(FILTERS)])
            manager.emit(matching_event())

    manager.connect(SaveEvent, calls.append)
    run_together(*[change] * 8)
    gc.collect()
    calls.clear()
    manager.emit(matching_event())
    assert len(calls) == 1
    assert list(manager.get_listeners(SaveEvent)) == [calls.append]


class Meddler:
    """Garbage in a cycle that uses the manager when it is collected."""

    def __init__(self, manager, connected):
        self.itself = self
        self.manager = manager
        self.connected = connected

    def heard(self, event):
        pass

    def __del__(self):
        gc.collect()
        listener = make_listener([], "meddler")
        self.manager.connect(FileEvent, listener, priority=1)
        self.manager.emit(SaveEvent())
        self.connected.append(listener)
        if len(self.connected) % 2:
            self.manager.disconnect(FileEvent, self.connected.pop(0))


def test_a_collection_at_any_moment_neither_deadlocks_nor_loses_a_listener(
    manager, calls, collect_often
):
    connected = []
    mine = [make_listener(calls, number) for number in range(60)]

    def change():
        for number, listener in enumerate(mine):
            manager.connect(SaveEvent, Meddler(manager, connected).heard)
            manager.connect((SaveEvent, FileEvent)[number % 2], listener, FILTERS[number % 4])
            manager.emit(matching_event())
            if number % 3 == 0:
                manager.disconnect((SaveEvent, FileEvent)[number % 2], listener)

    run_together(change)
    gc.collect()
    calls.clear()
    manager.emit(matching_event())
    assert calls == [number for number in range(60) if number % 3]
    found = list(manager.get_listeners(SaveEvent))
    assert all(found.count(listener) == 1 for listener in connected)
    assert len(found) == len(connected) + len(calls)


class Node:
    """Part of a cycle that only a collection frees, and that has a listener connected."""

    def __init__(self, manager):
        self.itself = self
        manager.connect(SaveEvent, self.heard)

    def heard(self, event):
        pass


class LastWords:
    """Connects, emits and disconnects when a collection frees it, in the middle of anything."""

    def __init__(self, manager, heard):
        self.itself = self
        self.manager = manager
        self.heard = heard

    def __del__(self):
        try:
            connection = self.manager.connect(OtherEvent, self.heard.append, once=True)
            self.manager.emit(OtherEvent())
            connection.disconnect()
        except BaseException as error:
            self.heard.append(error)


def test_sixteen_threads_and_collections_at_any_moment(manager, collect_often):
    stay = []
    heard = [[] for _ in range(16)]
    last_words = []
    rounds = 25

    def work(number):
        def body():
            def listener(event):
                if event.source == number:
                    heard[number].append(event.turn)

            filtered = [0]

            def selected(event):
                filtered[0] += 1

            stay.append(listener)
            manager.connect(SaveEvent, listener)
            manager.connect(SaveEvent, selected, {"source": number})
            for turn in range(rounds):
                Node(manager)
                LastWords(manager, last_words)
                with manager.connect(FileEvent, lambda event: None, priority=turn % 3):
                    manager.emit(SaveEvent(number, turn=turn))
            assert filtered == [rounds]

        return body

    run_together(*map(work, range(16)))
    gc.collect()
    assert heard == [list(range(rounds))] * 16
    assert not [word for word in last_words if not isinstance(word, OtherEvent)]
    assert len(last_words) == 16 * rounds
    found = manager.get_listeners(SaveEvent)
    assert [found.count(listener) for listener in stay] == [1] * 16
    assert len(found) == 32
    assert manager.get_listeners(OtherEvent) == []


class Trap:
    """Lets other code in at the n-th operation on a dictionary it is a key of."""

    def __init__(self):
        self.countdown = -1
        self.action = None

    def __hash__(self):
        self.countdown -= 1
        if self.countdown == 0:
            self.action()
        return 1

    def __eq__(self, other):
        return self is other

    def __call__(self, event):
        pass


def change_at(moment, planned, what, calls):
    """Make a change inside another one; False if the other was over before the moment came."""
    manager = EventManager()
    trap = Trap()
    old, new = make_listener(calls, "old"), make_listener(calls, "new")
    manager.connect(SaveEvent, old)
    if planned:
        manager.emit(SaveEvent())

    def action():
        if what == "connect":
            manager.connect(FileEvent, new)
        elif what == "disconnect":
            manager.disconnect(SaveEvent, old)
        elif what == "disconnect the same":
            if trap in manager.get_listeners(SaveEvent):
                manager.disconnect(SaveEvent, trap)
        elif what == "emit":
            manager.emit(SaveEvent())
        else:
            manager.disable(SaveEvent)

    trap.action = action
    trap.countdown = moment
    try:
        manager.connect(SaveEvent, trap)
        manager.connect(SaveEvent, trap, {"source": "elsewhere"}, 3)
        if planned:
            manager.emit(SaveEvent())
        manager.disconnect(SaveEvent, trap)
    except KeyError:
        assert what == "disconnect the same"
    if trap.countdown > 0:
        return False
    trap.countdown = -1
    if what == "disable":
        assert not manager.is_enabled(SaveEvent)
        manager.enable(SaveEvent)
    calls.clear()
    manager.emit(SaveEvent())
    expected = {"connect": ["old", "new"], "disconnect": []}.get(what, ["old"])
    assert calls == expected
    assert [call for call in manager.get_listeners(SaveEvent) if call is not trap] == [
        {"old": old, "new": new}[name] for name in expected
    ]
    return True


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize(
    "what", ["connect", "disconnect", "disconnect the same", "emit", "disable"]
)
def test_changes_inside_a_change_are_not_lost(calls, planned, what):
    moment = 1
    while change_at(moment, planned, what, calls):
        moment += 1
    assert moment > 5


FORK = """
import os, sys, threading
from encore.events import package_globals
from encore.events.api import BaseEvent, EventManager, get_event_manager

manager = EventManager()
heard = []
manager.connect(BaseEvent, heard.append)
manager.emit(BaseEvent())
held, done = threading.Event(), threading.Event()

def hold_the_locks():
    with manager._registry.lock, package_globals._lock:
        held.set()
        done.wait(60)

thread = threading.Thread(target=hold_the_locks)
thread.start()
held.wait(60)
child = os.fork()
if child == 0:
    import signal
    signal.alarm(30)
    manager.connect(BaseEvent, heard.append, {"source": 1})
    with manager.held(BaseEvent):
        manager.emit(BaseEvent(1))
    get_event_manager()
    os._exit(len(heard))
done.set()
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_another_thread_holds_the_lock():
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    assert result.stdout.split() == ["2"]
