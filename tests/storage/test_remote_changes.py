"""What handles tell of the changes of others."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime

import pytest
from logged_changes import change_everything, fail, put

from encore.events.event_manager import EventManager
from encore.storage._poller import Poller
from encore.storage.events import (
    StoreDeleteEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreUpdateEvent,
)
from encore.storage.locking_filesystem_store import LockingFileSystemStore

DEADLINE = 30.0
LONG_AGO = datetime(2000, 1, 1)


@pytest.fixture
def path(shared_folder):
    return shared_folder


def remote(found):
    return [(*each[:3], True) for each in found]


# Changes of others


def test_remote_events_are_those_of_the_other_handle(new_handle, recorded):
    store, other = new_handle(), new_handle()
    here, there = recorded(store), recorded(other)
    change_everything(store)
    other._poll()
    assert there == remote(here)
    store._poll()
    other._poll()
    assert len(here) == len(there) == 9
    assert {kind for kind, *_ in here} == {
        kind.__name__ for kind in (StoreSetEvent, StoreUpdateEvent, StoreDeleteEvent)
    }


def test_remote_events_begin_with_connect_and_end_with_disconnect(new_handle, recorded):
    store, other = new_handle(), new_handle()
    found = recorded(other)
    put(store, "a")
    other.disconnect()
    other._poll()
    put(store, "b")
    other.connect()
    put(store, "c")
    other._poll()
    assert found == [("StoreSetEvent", "c", {}, True)]


def test_a_change_that_is_committed_after_connect_is_told(new_handle, monkeypatch, recorded):
    store = new_handle()
    found = []

    def connect_now(self, changes):
        found.append(new_handle())
        found.append(recorded(found[0]))
        after(self, changes)

    after = LockingFileSystemStore._after_commit
    monkeypatch.setattr(LockingFileSystemStore, "_after_commit", connect_now)
    put(store, "a", n=1)
    monkeypatch.undo()
    found[0]._poll()
    assert found[1] == [("StoreSetEvent", "a", {"n": 1}, True)]


def test_what_a_transaction_undoes_itself_is_told_too(new_handle, recorded):
    store, other = new_handle(), new_handle()
    local, found = recorded(store), recorded(other)
    with store.transaction("nothing is left"):
        put(store, "a", n=1)
        store.delete("a")
    fail(store, "nothing has happened")
    other._poll()
    assert [each[:2] for each in local] == [("StoreSetEvent", "a"), ("StoreDeleteEvent", "a")]
    assert found == remote(local)
    assert store.get_modified_keys(LONG_AGO) == ["a", "a"]


def test_local_events_are_not_remote(new_handle):
    store = new_handle()
    events = []
    store.event_manager.connect(StoreModificationEvent, events.append)
    put(store, "a")
    store._poll()
    (event,) = events
    assert getattr(event, "remote", False) is False


def test_metadata_of_events_belong_to_them(new_handle):
    store, one, two = new_handle(), new_handle(), new_handle()
    events = []
    for each in (one, two):
        each.event_manager.connect(StoreModificationEvent, events.append)
    put(store, "a", l=[1])
    one._poll()
    two._poll()
    events[0].metadata["l"].append(2)
    assert events[1].metadata == {"l": [1]}
    assert store.get_metadata("a") == {"l": [1]}


def test_a_listener_may_call_the_store(new_handle):
    store, other = new_handle(), new_handle()
    seen = []

    def listener(event):
        seen.append(event.key)
        if event.remote:
            put(other, f"{event.key}/seen")
            other._poll()

    other.event_manager.connect(StoreModificationEvent, listener, {"remote": True})
    put(store, "a")
    put(store, "b")
    other._poll()
    assert seen == ["a", "b"]
    assert other.exists("b/seen")


OTHER_PROCESS = """
import pickle, sys
store = pickle.load(sys.stdin.buffer)
with store:
    for number in range(20):
        store.set_metadata(f"{sys.argv[1]}{number % 5}", {"n": number})
"""


def test_changes_of_other_processes(new_handle, recorded):
    store = new_handle()
    found = recorded(store)
    names = ["p", "q"]
    processes = []
    for name in names:
        process = subprocess.Popen(
            [sys.executable, "-c", OTHER_PROCESS, name],
            stdin=subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), *sys.path])),
            },
        )
        process.stdin.write(pickle.dumps(store))
        process.stdin.flush()
        processes.append(process)
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    store._poll()
    for name in names:
        assert [each for each in found if each[1].startswith(name)] == [
            ("StoreSetEvent" if n < 5 else "StoreUpdateEvent", f"{name}{n % 5}", {"n": n}, True)
            for n in range(20)
        ]
    assert len(found) == 40
    assert Counter(store.get_modified_keys(LONG_AGO)) == Counter(each[1] for each in found)


def test_threads_write_and_each_change_is_told_once(new_handle, recorded):
    stores, watcher = [new_handle(), new_handle()], new_handle()
    found = recorded(watcher)
    over = threading.Event()

    def watch():
        while not over.is_set():
            watcher._poll()

    def work(number):
        for turn in range(10):
            put(stores[number % 2], f"k{number}", n=turn)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    watching = threading.Thread(target=watch)
    for thread in [watching, *threads]:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    over.set()
    watching.join(DEADLINE)
    watcher._poll()
    for number in range(6):
        mine = [each[2]["n"] for each in found if each[1] == f"k{number}"]
        assert mine == list(range(10))


# The thread


def polling_threads():
    return [thread for thread in threading.enumerate() if thread.name == "encore-_poll"]


def test_a_thread_looks_at_the_log(new_handle):
    store, other = new_handle(), new_handle(remote_event_poll_interval=0.001)
    (thread,) = polling_threads()
    assert thread.daemon
    seen = threading.Event()
    other.event_manager.connect(
        StoreModificationEvent, lambda event: seen.set(), {"key": "late", "remote": True}
    )

    def fail(event):
        raise ZeroDivisionError

    other.event_manager.connect(StoreModificationEvent, fail)
    put(store, "early")
    put(store, "late")
    assert seen.wait(DEADLINE)
    other.disconnect()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_disconnect_ends_the_thread_at_once(new_handle):
    store = new_handle(remote_event_poll_interval=1e9)
    (thread,) = polling_threads()
    begun = time.monotonic()
    store.disconnect()
    assert not thread.is_alive()
    assert time.monotonic() - begun < DEADLINE
    store.connect()
    assert len(polling_threads()) == 1
    store.disconnect()
    assert polling_threads() == []


def test_no_thread_without_an_interval(new_handle):
    new_handle()
    assert polling_threads() == []


def test_a_store_that_is_dropped_ends_its_thread(path):
    store = LockingFileSystemStore(path, remote_event_poll_interval=1e9)
    store.connect()
    put(store, "a")
    (thread,) = polling_threads()
    del store
    gc.collect()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert [name for name in os.listdir(f"{path}/.FStmp") if name != "lock"] == []


def test_disconnect_does_not_wait_for_a_listener(new_handle, recorded):
    store, other = new_handle(), new_handle(remote_event_poll_interval=0.001)
    inside, go_on = threading.Event(), threading.Event()

    def listener(event):
        inside.set()
        go_on.wait(DEADLINE)

    other.event_manager.connect(StoreModificationEvent, listener)
    (thread,) = polling_threads()
    put(store, "a")
    put(store, "b")
    assert inside.wait(DEADLINE)
    other.disconnect()
    assert thread.is_alive()
    found = recorded(other)
    go_on.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert found in ([], [("StoreSetEvent", "a", {}, True)])


def test_an_error_does_not_end_the_thread(new_handle, monkeypatch, caplog):
    seen, failed = threading.Event(), threading.Event()
    store, other = new_handle(), new_handle()

    class Broken(EventManager):
        def emit(self, event, block=True):
            if not failed.is_set():
                failed.set()
                raise ZeroDivisionError
            seen.set()

        def has_listeners(self, cls):
            return True

    other.event_manager = Broken()
    other.remote_event_poll_interval = 0.001
    other.disconnect()
    other.connect()
    put(store, "a")
    assert failed.wait(DEADLINE)
    put(store, "b")
    assert seen.wait(DEADLINE)
    other.disconnect()
    assert "could not tell 'a'" in caplog.text


def test_an_error_of_the_method_does_not_end_a_poller(caplog):
    class Owner:
        failed, called = False, threading.Event()

        def look(self):
            if not self.failed:
                self.failed = True
                raise ZeroDivisionError
            self.called.set()

    owner = Owner()
    poller = Poller(owner, "look", 0.001)
    assert owner.called.wait(DEADLINE)
    poller.end()
    assert "look() of" in caplog.text


def test_a_listener_that_exits_keeps_nothing_from_the_others(new_handle, caplog):
    store, other = new_handle(), new_handle(remote_event_poll_interval=0.001)
    told, last = [], threading.Event()

    def listener(event):
        told.append(event.key)
        if event.key == "last":
            last.set()
        raise SystemExit

    other.event_manager.connect(StoreModificationEvent, listener)
    with store.transaction("one batch"):
        put(store, "a")
        put(store, "b")
    put(store, "last")
    assert last.wait(DEADLINE)
    other.disconnect()
    assert told == ["a", "b", "last"]
    assert "could not tell 'a'" in caplog.text


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_is_another_handle(new_handle, recorded, in_a_fork):
    store, other = new_handle(remote_event_poll_interval=1e9), new_handle()
    found = recorded(store)
    put(store, "a")
    other._poll()
    del found[:]

    def work():
        put(other, "b")
        put(store, "c")
        other._poll()
        store._poll()
        return len(polling_threads()), [each[1:] for each in found]

    answer = in_a_fork(work)
    assert answer == "(1, [('c', {}, False), ('b', {}, True)])"
    store._poll()
    assert [each[1:] for each in found] == [("b", {}, True), ("c", {}, True)]
