"""Writers that end, or are interrupted, at any step."""

from __future__ import annotations

import io
import os
import threading
from collections import Counter
from datetime import datetime
from itertools import count

import pytest

from encore.storage import base_store
from encore.storage._change_lines import LOG, Line

LONG_AGO = datetime(2000, 1, 1)


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


CALLS = ("open", "write", "close", "link", "rename", "unlink", "mkdir", "utime", "fsync", "access")


class Steps:
    """Does something before the n-th system call of this thread, not of that of the heartbeat."""

    def __init__(self, monkeypatch, action, number):
        self.thread = threading.get_ident()
        self.action, self.number = action, number
        self.count = 0
        for call in CALLS:
            monkeypatch.setattr(os, call, self.wrapped(getattr(os, call)))

    def wrapped(self, call):
        def run(*args, **kwargs):
            if threading.get_ident() == self.thread:
                self.count += 1
                if self.count == self.number:
                    self.action()
            return call(*args, **kwargs)

        return run


def replace(store):
    put(store, "a", b"2", n=2)


def create(store):
    put(store, "new", b"1", n=1)


def change_metadata(store):
    store.set_metadata("a", {"n": 2})


def delete(store):
    store.delete("a")


def many(store):
    with store.transaction("many"):
        put(store, "a", n=2)
        put(store, "passing")
        put(store, "new", n=1)
        store.delete("b")
        store.delete("passing")


def delete_many(store):
    with store.transaction("many"):
        put(store, "passing")
        store.delete("passing")
        store.delete("a")
        store.delete("b")


def state_of(store):
    return {key: (store.to_bytes(key), store.get_metadata(key)) for key in store.query_keys()}


CHANGES = {
    replace: ["a"],
    create: ["new"],
    change_metadata: ["a"],
    delete: ["a"],
    many: ["a", "passing", "new", "b", "passing"],
    delete_many: ["passing", "passing", "a", "b"],
}


# In the ordinary run not at all steps, of which neighbours differ little.
EVERY_STEP = pytest.mark.parametrize(
    ("change", "stride"),
    [
        (replace, 3),
        (delete_many, 3),
        *(pytest.param(change, 1, marks=pytest.mark.slow) for change in CHANGES),
    ],
)


def check_every_step(new_handle, recorded, run, change, stride):
    """Whatever happens at a step, the log says what has happened to the store."""
    watcher = new_handle()
    found = recorded(watcher)
    made = Counter()
    for number in range(1, 500, stride):
        with new_handle() as store:
            for key in list(store.query_keys()):
                store.delete(key)
            put(store, "a", b"1", n=1)
            put(store, "b", b"1", n=1)
            before = state_of(store)
        count = len(watcher.get_modified_keys(LONG_AGO))
        watcher._poll()
        del found[:]
        happened = run(number)
        after = state_of(watcher)
        expected = CHANGES[change] if after != before else []
        made[bool(expected)] += 1
        # Either who looks finds out, or who writes.
        if number % 2:
            put(watcher, "z")
            expected = [*expected, "z"]
        else:
            watcher._poll()
        assert watcher.get_modified_keys(LONG_AGO)[count:] == expected
        watcher._poll()
        assert [each[1] for each in found if each[3]] == [key for key in expected if key != "z"]
        if not happened:
            break
    assert not happened
    assert made[True] > 2
    assert made[False] > 10 // stride


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@EVERY_STEP
def test_a_kill_at_any_step_neither_loses_nor_doubles_a_change(
    new_handle, recorded, change, stride
):
    def run(number):
        pid = os.fork()
        if pid == 0:
            try:
                with new_handle() as store:
                    Steps(pytest.MonkeyPatch(), lambda: os._exit(9), number)
                    change(store)
            finally:
                os._exit(0)
        return os.waitpid(pid, 0)[1] != 0

    check_every_step(new_handle, recorded, run, change, stride)


class Interrupted(BaseException):
    pass


@EVERY_STEP
def test_an_interrupt_at_any_step_neither_loses_nor_doubles_a_change(
    new_handle, recorded, change, stride
):
    def interrupt():
        raise Interrupted

    def run(number):
        with new_handle() as store:
            with pytest.MonkeyPatch.context() as patch:
                steps = Steps(patch, interrupt, number)
                try:
                    change(store)
                except Interrupted:
                    pass
            # It can be used.
            put(store, "y")
            store.delete("y")
            return steps.count >= number

    check_every_step(lambda: without(new_handle(), "y"), recorded, run, change, stride)


def without(store, key):
    """Return a handle that does not tell of a key."""
    real = store.get_modified_keys
    store.get_modified_keys = lambda since: [each for each in real(since) if each != key]
    tell = store._tell_line
    store._tell_line = lambda line: None if line.key == key else tell(line)
    return store


# Signal handlers that change the store, and finalizers

FOLDER = os.path.dirname(base_store.__file__)
WRITING = {
    f"{FOLDER}/{name}.py"
    for name in (
        "_change_log",
        "_changes",
        "_lock_holders",
        "_pair_directory",
        "_shared_directory",
        "_writer_lock",
        "base_store",
        "file_lock",
        "filesystem_store",
        "locking_filesystem_store",
        "overlay_store",
    )
}


def set_another(store):
    put(store, "h", n=9)


def set_two(store):
    with store.transaction("two"):
        put(store, "h", n=9)
        put(store, "i", n=9)


def set_the_same(store):
    put(store, "a", n=9)


def delete_the_same(store):
    if store.exists("a"):
        store.delete("a")
    else:
        put(store, "a", n=9)


def set_and_delete(store):
    put(store, "b", n=9)
    store.delete("b")


ACTIONS = {set_another: 1, set_two: 2, set_the_same: 1, delete_the_same: 1, set_and_delete: 2}


def strike(new_handle, recorded, interrupted, change, action, numbers):
    """Whatever line a signal handler comes at, all its changes are made, and each is told once."""
    watcher = new_handle()
    with watcher.transaction("ready"):
        put(watcher, "a", n=1)
        put(watcher, "b", n=1)
    there = recorded(watcher)
    inside = True
    while inside:
        number = next(numbers)
        with new_handle() as store:
            for key in set(watcher.keys()) - {"a", "b"}:
                store.delete(key)
            put(store, "a", n=1)
            put(store, "b", n=1)
            watcher._poll()
            del there[:]
            here = recorded(store)
            try:
                inside = interrupted(
                    lambda: change(store), WRITING, number, lambda frame: action(store)
                )
            except KeyError:
                # What the handler has deleted before could not be deleted.
                continue
        watcher._poll()
        assert len(there) == len(CHANGES[change]) + (ACTIONS[action] if inside else 0), number
        # Those of the handler are told first where it comes just before the others are told.
        assert sorted(map(repr, there)) == sorted(repr((*each[:3], True)) for each in here), number
        left = os.listdir(f"{store.path}/.FStmp")
        assert [name for name in left if name.startswith("lock-shared")] == []
        # What is in the log is what was made, in the same order. But the last of two changes of
        # one key may be told first if one comes in the middle of the other.
        if action in (set_another, set_two):
            told = {"a": {"n": 1}, "b": {"n": 1}}
            for kind, key, metadata, _ in there:
                told[key] = None if kind == "StoreDeleteEvent" else metadata
            found = {key: watcher.get_metadata(key) for key in watcher.query_keys()}
            assert {key: value for key, value in told.items() if value is not None} == found, number
    # What was not made yet was not logged either, in case of a crash: a key that was has a stamp.
    with open(f"{watcher.path}/{LOG}", "rb") as file:
        lines = [Line.parse(row) for row in file.read().splitlines()]
    stamps = [
        line.payload["modified"] for line in lines if line.action == "set" and line.key in "hi"
    ]
    assert None not in stamps
    return number


@pytest.mark.parametrize("action", ACTIONS)
def test_a_handler_is_told_once(new_handle, recorded, interrupted, action):
    # Each of the lines where it matters is met by one of the five.
    first = list(ACTIONS).index(action)
    strike(new_handle, recorded, interrupted, replace, action, count(1 + 4 * first, 17))


@pytest.mark.slow
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_handler_at_any_line_is_told_once(new_handle, recorded, interrupted, change, action):
    assert strike(new_handle, recorded, interrupted, change, action, count(1)) > 300
