"""StaticURLStore: several threads, polling, forks."""

from __future__ import annotations

import gc
import json
import logging
import os
import threading
import weakref

import pytest
from static_site import PATHS, PATIENCE, in_thread, join, polling_threads, serving, wait

from encore.events.event_manager import EventManager
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent, StorePollFailedEvent, StoreSetEvent
from encore.storage.static_url_store import StaticURLStore

# Threads


class Gate:
    """Lets answers for the index wait for each other; its content is settled when they are asked for."""

    def __init__(self, site):
        self.site = site
        self.count = 0
        self.arrived = [threading.Event() for _ in range(10)]
        self.open = [threading.Event() for _ in range(10)]
        self.bodies = {}
        self.is_broken = False

    def __call__(self, handler):
        if not handler.path.startswith("/index.json"):
            return False
        number, self.count = self.count, self.count + 1
        body = self.bodies.get(number) or json.dumps(self.site.index).encode()
        self.arrived[number].set()
        self.open[number].wait(PATIENCE)
        if self.is_broken:
            handler.send_error(404)
        else:
            handler.reply(200, {}, body, True)
        return True

    def let(self, *numbers):
        for number in numbers:
            self.open[number].set()


def version(number):
    return json.dumps({"v": {"number": number}}).encode()


def test_an_older_answer_never_replaces_a_newer_one(make, site, told):
    gate = Gate(site)
    # Of two requests at the same time the second one is answered first, with what was there before.
    gate.bodies = {0: version(0), 1: version(2), 2: version(1), 3: version(2)}
    gate.let(0, 3)
    with serving(site, hook=gate) as url:
        store = make(url)
        events = told(store)
        one = in_thread(store.update_index)
        wait(gate.arrived[1])
        two = in_thread(store.update_index)
        wait(gate.arrived[2])
        gate.let(1)
        join(one)
        assert store.get_metadata("v") == {"number": 2}
        gate.let(2)
        join(two)
        assert store.get_metadata("v") == {"number": 2}
        # It had to ask again, as it cannot know which of them is newer.
        assert gate.count == 4
        assert [event[:3] for event in events] == [("update", "v", {"number": 2})]


def test_who_asked_before_is_content_with_a_later_answer(make, site):
    gate = Gate(site)
    gate.bodies = {0: version(0), 1: version(1), 2: version(2)}
    gate.let(0)
    with serving(site, hook=gate) as url:
        store = make(url)
        one = in_thread(store.update_index)
        wait(gate.arrived[1])
        two = in_thread(store.update_index)
        wait(gate.arrived[2])
        gate.let(2)
        join(two)
        gate.let(1)
        join(one)
        assert store.get_metadata("v") == {"number": 2}
        assert gate.count == 3


def test_nobody_waits_for_the_index(make, site):
    gate = Gate(site)
    gate.let(0)
    with serving(site, hook=gate) as url:
        store = make(url)
        thread = in_thread(store.update_index)
        wait(gate.arrived[1])
        # In another thread, so that the test fails and does not wait.
        done = threading.Event()

        def use():
            walk = store.query()
            next(walk)
            assert store.exists("a")
            assert store.to_bytes("a") == b"data of a"
            assert store.get_metadata("a") == {"n": 1}
            list(store.keys())
            store.disconnect()
            done.set()

        in_thread(use)
        wait(done)
        gate.let(1)
        join(thread)
        assert not store.is_connected()


def test_one_thread_tells_at_a_time_in_order(make, site, url, told):
    store = make(url)
    is_telling, go_on = threading.Event(), threading.Event()

    def listener(event):
        is_telling.set()
        wait(go_on)

    store.event_manager.connect(StoreModificationEvent, listener, priority=1)
    events = told(store)
    site.index = {"a": {"n": 1}}
    first = in_thread(store.update_index)
    wait(is_telling)
    site.index = {"a": {"n": 2}}
    second = in_thread(store.update_index)
    join(second)
    assert store.get_metadata("a") == {"n": 2}
    assert events == []
    go_on.set()
    join(first)
    assert [event[:2] for event in events] == [("delete", "b/c"), ("update", "a")]


def test_threads_that_update_and_read(make, site, url):
    store = make(url)
    stop, problems = threading.Event(), []

    def update():
        while not stop.is_set():
            store.update_index()

    def read():
        last = 0
        while not stop.is_set():
            found = {metadata["v"] for _, metadata in store.query()}
            if len(found) != 1 or min(found) < last:
                problems.append(found)
            last = max(found)

    site.index = {f"key{number}": {"v": 0} for number in range(50)}
    store.update_index()
    threads = [in_thread(each) for each in (update, update, read, read)]
    for number in range(1, 12):
        site.index = {f"key{each}": {"v": number} for each in range(50)}
        store.update_index()
    stop.set()
    join(*threads)
    assert problems == []
    assert dict(store.query()) == site.index


# Polling


def test_polling_finds_changes(make, site, url):
    store = make(url, poll=0.005)
    found = threading.Event()
    store.event_manager.connect(StoreSetEvent, lambda event: found.set())
    site.set("new", b"", {})
    wait(found)
    assert store.exists("new")


def test_poll_0_never_polls(make, url):
    before = polling_threads()
    make(url, poll=0)
    assert polling_threads() == before


def test_disconnect_ends_polling_at_once(make, url):
    before = set(polling_threads())
    store = make(url, poll=1000)
    [thread] = set(polling_threads()) - before
    assert thread.daemon
    store.disconnect()
    join(thread)


def test_disconnect_does_not_wait_for_a_poll_that_hangs(make, site):
    gate = Gate(site)
    gate.let(0)
    with serving(site, hook=gate) as url:
        store = make(url, poll=0.001)
        failures = []
        store.event_manager.connect(StorePollFailedEvent, failures.append)
        wait(gate.arrived[1])
        threads = polling_threads()
        done = in_thread(store.disconnect)
        done.join(2)
        assert not done.is_alive()
        gate.is_broken = True
        gate.let(*range(1, 10))
        join(*threads)
        assert failures == []


def test_a_forgotten_store_ends_its_thread(url):
    before = set(polling_threads())
    store = StaticURLStore(url, *PATHS, 1000, event_manager=EventManager())
    store.connect()
    [thread] = set(polling_threads()) - before
    there = weakref.ref(store)
    del store
    gc.collect()
    assert there() is None
    join(thread)


def test_a_forgotten_store_does_not_keep_the_process_alive(url, child):
    process = child(
        "import sys\nfrom encore.storage.static_url_store import StaticURLStore\n"
        "store = StaticURLStore(sys.argv[1], 'data/', 'index.json', 1000)\nstore.connect()\n"
        "print(*store.keys())",
        url,
    )
    out, _ = process.communicate(timeout=60)
    assert (out.split(), process.returncode) == ([b"a", b"b/c"], 0)


def test_polls_that_fail_are_told_and_logged_once(make, site, caplog):
    site.hook = None
    with serving(site, hook=lambda handler: site.hook and site.hook(handler)) as url:
        store = make(url, connect=False, poll=0.002)
        failures, enough, fixed = [], threading.Event(), threading.Event()

        def failed(event):
            failures.append(event)
            if len(failures) >= 3:
                enough.set()

        store.event_manager.connect(StorePollFailedEvent, failed)
        store.event_manager.connect(StoreSetEvent, lambda event: fixed.set())
        with caplog.at_level(logging.INFO, "encore.storage.static_url_store"):
            store.connect()
            site.hook = lambda handler: handler.send_error(404) or True
            wait(enough)
            assert store.exists("a")
            site.set("new", b"", {})
            site.hook = None
            wait(fixed)
        assert all(isinstance(event.error, StoreError) for event in failures)
        assert failures[0].source is store
        levels = [record.levelname for record in caplog.records]
        assert levels == ["WARNING", "INFO"]


@pytest.mark.parametrize(
    "wrong",
    [MemoryError(), RuntimeError("own"), SystemExit(), RecursionError()],
    ids=lambda error: type(error).__name__,
)
def test_polling_survives_everything(make, site, url, wrong):
    store = make(url, connect=False, poll=0.001)
    errors, has_failed, fixed = [], threading.Event(), threading.Event()

    def failed(event):
        errors.append(event.error)
        has_failed.set()
        raise SystemExit

    store.event_manager.connect(StorePollFailedEvent, failed)
    store.event_manager.connect(StoreSetEvent, lambda event: fixed.set())
    store.connect()
    session = store._session
    update, broken = session.update, [True]

    def instead():
        if broken:
            raise wrong
        update()

    session.update = instead
    wait(has_failed)
    assert errors[0] is wrong
    site.set("new", b"", {})
    broken.clear()
    wait(fixed)


def test_a_poll_does_not_obey_a_server_that_wants_a_long_pause(make, site):
    def hook(handler):
        if len(site.seen) > 1:
            handler.send_response(503)
            handler.send_header("Retry-After", "3600")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return True
        return False

    with serving(site, hook=hook) as url:
        store = make(url, connect=False, poll=0.001)
        enough = threading.Event()
        count = []

        def failed(event):
            count.append(event)
            if len(count) == 3:
                enough.set()

        store.event_manager.connect(StorePollFailedEvent, failed)
        store.connect()
        wait(enough)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_store_goes_on_in_the_child_of_a_fork(make, site, url, in_a_fork):
    store = make(url, poll=1000)
    assert store.to_bytes("a") == b"data of a"

    def use():
        threads = len(polling_threads())
        connected = store.is_connected()
        data = store.to_bytes("a")
        now = len(polling_threads())
        store.update_index()
        found = list(store.keys())
        store.disconnect()
        return threads, connected, data, found, now, store.is_connected()

    site.set("new", b"", {})
    answer = in_a_fork(use)
    assert answer == repr((0, True, b"data of a", ["a", "b/c", "new"], 1, False))
    assert store.is_connected()
    assert list(store.keys()) == ["a", "b/c"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_is_at_it(make, site, url, in_a_fork, told):
    store = make(url)
    is_telling, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    def listener(event):
        if os.getpid() == parent:
            is_telling.set()
            wait(go_on)

    store.event_manager.connect(StoreModificationEvent, listener)
    site.index = {}
    thread = in_thread(store.update_index)
    wait(is_telling)
    site.index = {"a": {"n": 5}}

    def use():
        events = told(store)
        with store._session._lock:
            pass
        store.update_index()
        return [event[:2] for event in events]

    # What the parent tells is not told here.
    assert in_a_fork(use) == repr([("set", "a")])
    go_on.set()
    join(thread)
