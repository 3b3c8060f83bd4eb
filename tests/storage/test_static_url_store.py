"""StaticURLStore: how it is made and connected, its index, what it tells."""

from __future__ import annotations

import gc
import gzip
import inspect
import json
import logging
import os
import pickle
import threading
import urllib.request
import weakref

import pytest
from static_site import Site, serving

from encore.events.event_manager import EventManager
from encore.events.package_globals import get_event_manager
from encore.storage.errors import AuthorizationError, StoreError
from encore.storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreModificationEvent,
    StorePollFailedEvent,
    StoreSetEvent,
)
from encore.storage.static_url_store import StaticURLStore, basic_auth_factory

PATIENCE = 20.0
PATHS = ("data/", "index.json")


@pytest.fixture
def site():
    return Site({"a": (b"data of a", {"n": 1}), "b/c": (b"data of b/c", {"n": 2})})


@pytest.fixture
def url(site):
    with serving(site) as url:
        yield url


@pytest.fixture
def make():
    """A function that makes stores, which are disconnected at the end."""
    stores = []

    def make(url, *, connect=True, **options):
        defaults = {"poll": 0, "event_manager": EventManager(), "timeout": 5.0}
        store = StaticURLStore(url, *PATHS, **{**defaults, **options})
        stores.append(store)
        if connect:
            store.connect()
        return store

    yield make
    for store in stores:
        store.disconnect()


def wait(event):
    assert event.wait(PATIENCE), "waited in vain"


def in_thread(function, *args):
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    return thread


def join(*threads):
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def polling_threads():
    return [thread for thread in threading.enumerate() if thread.name == "encore-_poll"]


def index_requests(site):
    found = [headers for _, path, headers in site.seen if path.startswith("/index.json")]
    site.seen.clear()
    return found


# The constructor


def test_the_arguments_of_0_8():
    store = StaticURLStore("http://localhost:8080/", "data/", "index.json", 5)
    assert (store.root_url, store.data_path, store.query_path, store.poll) == (
        "http://localhost:8080/",
        "data/",
        "index.json",
        5,
    )
    assert store.event_manager is get_event_manager()
    assert not store.is_connected()
    names = list(inspect.signature(StaticURLStore.connect).parameters)
    assert names == ["self", "credentials", "proxy_handler", "auth_handler_factory"]


def test_an_event_manager_is_given_by_name():
    manager = EventManager()
    for arguments in (
        (manager, "http://localhost:8080/", "data", "index.json"),
        (manager, "http://localhost:8080/", "data", "index.json", 5),
        ("http://localhost:8080/", "data", "index.json", manager),
        ("http://localhost:8080/", "data", "index.json", 5, manager),
    ):
        with pytest.raises(TypeError, match="event_manager="):
            StaticURLStore(*arguments)
    with pytest.raises(TypeError, match="positional"):
        StaticURLStore("http://localhost:8080/", "data", "index.json", 5, 6)


@pytest.mark.parametrize(
    "root",
    [
        "http://host", "http://host/", "https://host:443/a/b", "HTTP://HOST/", "http://host?key=",
        "http://[::1]:80/", "http://127.0.0.1:8080/", "http://h\u00f6st/p\u00e4th/", "http://host/a b/",
        "ftp://host/", "file:/path/", "file:///path/", "file://localhost/path/", "File:/p\u00e4 th/",
        "http://user:word@host/", "http://host:/",
    ],
)  # fmt: skip
def test_roots(root):
    data_path = "/data/" if root == "http://host" else "data/"
    store = StaticURLStore(root, data_path, "/index.json")
    assert store._index_url.isascii()
    assert " " not in store._index_url


@pytest.mark.parametrize(
    ("root", "error"),
    [
        (None, TypeError), (b"http://host/", TypeError), (5, TypeError),
        ("", ValueError), ("host/path", ValueError), ("//host/", ValueError), ("gopher://host/", ValueError),
        ("javascript:alert(1)", ValueError), ("http:/host/", ValueError), ("http:host", ValueError),
        ("http://", ValueError), ("http:///path", ValueError), ("http://:80/", ValueError),
        ("http://host:port/", ValueError), ("http://host:99999/", ValueError), ("http://host:-1/", ValueError),
        ("http://[::1/", ValueError), ("http://[]/", ValueError), ("http://[::1]x/", ValueError),
        ("http://ho st/", ValueError), ("http://host/#part", ValueError), ("http://host/\n", ValueError),
        ("http://host/\0", ValueError), ("http://host\r\nX: y/", ValueError), ("http://host/\x7f", ValueError),
        ("http://host/\x85", ValueError), ("http://host/\ud800", ValueError), (" http://host/", ValueError),
        ("file:path/", ValueError), ("file://host/path/", ValueError), ("file:", ValueError),
        ("http://h\u00f6st\u3002.\u3002/", ValueError), ("http://ho\\st/", ValueError),
    ],
)  # fmt: skip
def test_what_is_no_root(root, error):
    with pytest.raises(error, match="root_url"):
        StaticURLStore(root, *PATHS)


def test_other_arguments_are_checked():
    root = "http://host/"
    for arguments, error in (
        ((None, "i"), TypeError),
        (("d", b"i"), TypeError),
        (("d\n", "i"), ValueError),
        (("d", "i\r"), ValueError),
        (("d", "i#x"), ValueError),
        (("d", "i", "5"), TypeError),
        (("d", "i", True), TypeError),
        (("d", "i", -1), ValueError),
        (("d", "i", float("nan")), ValueError),
    ):
        with pytest.raises(error):
            StaticURLStore(root, *arguments)
    for name, value, error in (
        ("timeout", 0, ValueError),
        ("timeout", -1.0, ValueError),
        ("timeout", float("nan"), ValueError),
        ("timeout", "5", TypeError),
        ("timeout", None, TypeError),
        ("max_index_size", 0, ValueError),
        ("max_index_size", 1.5, TypeError),
        ("max_index_size", True, TypeError),
    ):
        with pytest.raises(error, match=name):
            StaticURLStore(root, "d", "i", **{name: value})


def test_no_key_chooses_the_host():
    for root in ("http://host", "https://host:80", "ftp://host", "http://[::1]"):
        for arguments in (("data/", "/index.json"), ("", "/index.json"), ("/data/", "index.json")):
            with pytest.raises(ValueError, match="slash"):
                StaticURLStore(root, *arguments)
        StaticURLStore(root, "/data/", "/index.json")


def test_paths_are_joined_as_they_are(make, site, url):
    site.data["xa"] = b"with a prefix"
    # Without a slash behind it.
    store = StaticURLStore(url + "da", "ta/x", "../index.json?a=b", 0, event_manager=EventManager())
    assert store._index_url == url + "da../index.json?a=b"
    store = StaticURLStore(url, "data/x", "index.json", 0, event_manager=EventManager())
    with store:
        assert store.to_bytes("a") == b"with a prefix"


@pytest.mark.parametrize(
    "key",
    ["a/b", "a b", "\u00e4\U0001f600", "a%2Fb", "%", "a?b", "a#b", "a+b&c=d;e", "a\nb", "\0", "..", ".",
     "a/../b", "./a", "/a", "a/", "a//b", "~a", "\\", "'\"<>"],
)  # fmt: skip
def test_any_key_makes_the_trip(make, site, url, key):
    site.set(key, key.encode(), {"key": key})
    store = make(url)
    assert store.to_bytes(key) == key.encode()
    assert [found for found, _ in store.query(key=key)] == [key]
    [path] = [path for _, path, _ in site.seen if path.startswith("/data/")]
    assert not {"", ".", ".."} & set(path[len("/data/") :].split("/"))


def test_a_repr_shows_no_secret():
    store = StaticURLStore("http://me:word@host/p?sig=word", "data/", "index.json?token=word")
    assert repr(store) == "StaticURLStore('http://host/p?...', 'data/', 'index.json?...')"
    assert store.root_url == "http://host/p?sig=word"


def test_info(make, url):
    info = make(url).info()
    assert (info["type"], info["readonly"], info["streaming"]) == ("StaticURLStore", True, True)


# Life cycle


def test_a_failed_connect_leaves_the_store_disconnected(make, site, url):
    store = make(url, connect=False, poll=1000)
    before = polling_threads()
    for index, match in (
        (b"nonsense", "is no index"),
        (b"[]", "no JSON object"),
        (b'{"a": {"b": NaN}}', "NaN"),
        (None, "404"),
    ):
        site.index_bytes = index
        if index is None:
            store.query_path = "missing"
            store._index_url = url + "missing"
        with pytest.raises(StoreError, match=match):
            store.connect()
        assert not store.is_connected()
        with pytest.raises(StoreError, match="not connected"):
            store.exists("a")
        with pytest.raises(StoreError, match="not connected"):
            store.update_index()
    assert polling_threads() == before
    store._index_url = url + "index.json"
    store.connect()
    assert store.exists("a")


def test_a_server_that_is_not_there(make):
    with serving(Site()) as url:
        pass
    store = make(url, connect=False, timeout=0.05)
    with pytest.raises(StoreError):
        store.connect()
    assert not store.is_connected()
    store = make("file:/no/such/folder/", connect=False)
    with pytest.raises(StoreError) as caught:
        store.connect()
    assert caught.value.errno == 2
    assert not store.is_connected()


def test_of_several_threads_that_connect_one_does_it(make, site):
    barrier = threading.Barrier(3)
    arrived = []

    def hook(handler):
        arrived.append(handler.path)
        if len(arrived) <= 3:
            barrier.wait(PATIENCE)

    with serving(site, hook=hook) as url:
        store = make(url, connect=False, poll=1000)
        before = set(polling_threads())
        threads = [in_thread(store.connect) for _ in range(3)]
        join(*threads)
        assert store.is_connected()
        pollers = set(polling_threads()) - before
        assert len(pollers) == 1
        store.disconnect()
        join(*pollers)


def test_reconnecting_finds_what_there_is_now(make, site, url):
    store = make(url)
    events = []
    store.event_manager.connect(StoreEvent, events.append)
    store.disconnect()
    del site.index["a"]
    store.connect()
    assert list(store.keys()) == ["b/c"]
    assert events == []


def test_pickles_have_no_secrets_and_arrive_disconnected(site, url):
    import ssl

    host = url.partition("//")[2]
    store = StaticURLStore(
        f"http://me:word@{host}",
        *PATHS,
        7,
        event_manager=EventManager(),
        timeout=3.0,
        ssl_context=ssl.create_default_context(),
    )
    store.connect({"username": "me", "password": "word"})
    data = pickle.dumps(store)
    store.disconnect()
    assert b"word" not in data
    copy = pickle.loads(data)
    assert not copy.is_connected()
    assert copy.event_manager is get_event_manager()
    assert (copy.root_url, copy.poll, copy.timeout, copy.ssl_context) == (url, 7, 3.0, None)
    with copy:
        assert copy.to_bytes("a") == b"data of a"


# The index


def test_the_index_is_fetched_conditionally_by_etag(make, site, url):
    store = make(url)
    index = store._session.index
    [first] = index_requests(site)
    assert "If-None-Match" not in first
    store.update_index()
    [second] = index_requests(site)
    assert second["If-None-Match"].startswith('"')
    assert store._session.index is index
    site.set("new", b"", {})
    store.update_index()
    assert store.exists("new")


def test_the_index_is_fetched_conditionally_by_date(make, site):
    with serving(site, etags=False) as url:
        store = make(url)
        index = store._session.index
        site.seen.clear()
        store.update_index()
        [headers] = index_requests(site)
        assert headers["If-Modified-Since"] == "Tue, 14 Nov 2023 22:13:20 GMT"
        assert store._session.index is index


@pytest.mark.parametrize("options", [{"etags": False}, {}], ids=str)
def test_a_second_change_in_the_same_second_is_seen(make, site, options):
    """Dates are whole seconds, and the etags of some servers are dates and sizes."""
    import time

    site.modified = time.time()
    with serving(site, **options) as url:
        store = make(url)
        site.index["a"] = {"n": 3}
        site.seen.clear()
        store.update_index()
        [headers] = index_requests(site)
        assert not {"If-None-Match", "If-Modified-Since"} & set(headers)
        assert store.get_metadata("a") == {"n": 3}


def test_an_index_that_is_the_same_is_kept(make, site):
    with serving(site, etags=False, dates=False) as url:
        store = make(url)
        index = store._session.index
        store.update_index()
        assert len(index_requests(site)) == 2
        assert store._session.index is index


def test_a_304_that_was_not_asked_for(make, site):
    def hook(handler):
        handler.reply(304, {}, b"", False)
        return True

    with serving(site, hook=hook) as url:
        store = make(url, connect=False)
        with pytest.raises(StoreError, match="304"):
            store.connect()


def test_the_index_may_be_compressed(make, site):
    with serving(site, gzip=True) as url:
        store = make(url)
        [headers] = index_requests(site)
        assert headers["Accept-Encoding"] == "gzip"
        assert list(store.keys()) == ["a", "b/c"]
        # Data are never.
        assert store.to_bytes("a") == b"data of a"
        assert site.seen[-1][2]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "options", [{}, {"lengths": False, "keep_alive": False}, {"gzip": True}], ids=str
)
def test_the_index_is_bounded(make, site, options):
    site.index_bytes = b'{"a": {"b": "%b"}}' % (b"x" * 100_000)
    with serving(site, **options) as url:
        store = make(url, connect=False, max_index_size=len(site.index_bytes) - 1)
        with pytest.raises(StoreError, match="large"):
            store.connect()
        assert not store.is_connected()
        store = make(url, max_index_size=len(site.index_bytes))
        assert store.exists("a")


def bad_gzip(handler, body):
    handler.reply(200, {"Content-Encoding": "gzip"}, body, True)
    return True


@pytest.mark.parametrize(
    "change",
    [
        lambda site: setattr(site, "index_bytes", b'{"a": {}, "a": {}}'),
        lambda site: setattr(site, "index_bytes", b'{"a": []}'),
        lambda site: setattr(site, "index_bytes", b"[" * 100_000),
        lambda site: setattr(site, "index_bytes", b'{"a": {"b": NaN}}'),
        lambda site: setattr(site, "index_bytes", b'{"": {}}'),
        lambda site: setattr(site, "index_bytes", b'{"\xff": {}}'),
        lambda site: setattr(site, "index_bytes", b"x" * 2000),
        lambda site: setattr(site, "hook", lambda h: h.send_error(500) or True),
        lambda site: setattr(site, "hook", lambda h: h.send_error(403) or True),
        lambda site: setattr(site, "hook", lambda h: h.send_error(404) or True),
        lambda site: setattr(site, "hook", lambda h: h.reply(204, {}, b"", False) or True),
        lambda site: setattr(site, "hook", lambda h: bad_gzip(h, b"no gzip")),
        lambda site: setattr(site, "hook", lambda h: bad_gzip(h, gzip.compress(b"{}")[:-9])),
        lambda site: setattr(site, "hook", lambda h: bad_gzip(h, gzip.compress(b"{}" + b" " * 10**6))),
        lambda site: setattr(site, "hook", truncated),
    ],
)  # fmt: skip
def test_an_index_that_is_not_in_order_is_refused_and_the_old_one_stays(make, site, change):
    site.hook = None
    with serving(site, hook=lambda handler: site.hook and site.hook(handler)) as url:
        store = make(url, max_index_size=1000)
        events = []
        store.event_manager.connect(StoreModificationEvent, events.append)
        change(site)
        with pytest.raises(StoreError):
            store.update_index()
        site.hook = None
        assert store.is_connected()
        assert dict(store.query()) == {"a": {"n": 1}, "b/c": {"n": 2}}
        assert store.to_bytes("a") == b"data of a"
        assert events == []


def truncated(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"a": {}}')
    handler.close_connection = True
    return True


def test_an_index_with_a_mark_of_utf8(make, site, url):
    site.index_bytes = json.dumps({"\u00e4": {"\u00f6": "\u00fc"}}, ensure_ascii=False).encode("utf-8-sig")
    assert dict(make(url).query()) == {"\u00e4": {"\u00f6": "\u00fc"}}


def test_iterators_walk_over_the_index_they_began_with(make, site, url):
    store = make(url)
    walks = [store.query(), store.query_keys(), store.glob("*"), store.keys(), store.query(n=1)]
    first = [next(walk) for walk in walks]
    site.index = {"z": {"n": 1}}
    store.update_index()
    rest = [list(walk) for walk in walks]
    found = [{*map(str, [one, *others])} for one, others in zip(first, rest, strict=True)]
    assert found[1:4] == [{"a", "b/c"}] * 3
    assert found[4] == {"('a', {'n': 1})"}
    assert list(store.keys()) == ["z"]


# What is told


@pytest.fixture
def told():
    """A function that returns a list of what a store tells."""

    def record(store):
        found = []

        def listener(event):
            assert event.source is store
            found.append((event.action, event.key, event.metadata, event.remote))

        store.event_manager.connect(StoreModificationEvent, listener)
        return found

    return record


def test_what_is_different_is_told(make, site, url, told):
    store = make(url)
    events = told(store)
    site.index = {"a": {"n": [1]}, "new": {}, "b/c": {"n": 2}}
    store.update_index()
    assert events == [("set", "new", {}, True), ("update", "a", {"n": [1]}, True)]
    events.clear()
    site.index = {"a": {"n": [1]}}
    store.update_index()
    assert events == [("delete", "new", {}, True), ("delete", "b/c", {"n": 2}, True)]
    events.clear()
    site.index["a"] = {"n": [True]}
    store.update_index()
    assert events == [("update", "a", {"n": [True]}, True)]
    events.clear()
    store.update_index()
    assert events == []


def test_changes_can_be_seen_when_they_are_told(make, site, url):
    store = make(url)
    seen = []

    def listener(event):
        event.metadata.clear()
        seen.append((event.key, store.exists(event.key), dict(store.query())))

    store.event_manager.connect(StoreModificationEvent, listener)
    site.index = {"a": {"n": 3}, "d": {"x": 1}}
    store.update_index()
    assert seen == [(key, key != "b/c", site.index) for key in ("b/c", "d", "a")]


def test_listeners_may_raise_and_call_the_store(make, site, url, told, caplog):
    class Manager(EventManager):
        def emit(self, event, block=True):
            super().emit(event, block)
            if isinstance(event, StoreDeleteEvent):
                raise RuntimeError("a manager of somebody's own")

    store = make(url, event_manager=Manager())

    def listener(event):
        site.index["more"] = {"n": len(site.index)}
        if event.key != "more":
            store.update_index()
        store.to_bytes("a")
        raise ValueError("a listener of somebody's own")

    store.event_manager.connect(StoreModificationEvent, listener)
    events = told(store)
    site.index = {"a": {"n": 1}, "new": {}}
    with caplog.at_level(logging.CRITICAL):
        store.update_index()
    # In the order in which the indexes followed each other.
    assert [event[:2] for event in events] == [
        ("delete", "b/c"), ("set", "new"), ("set", "more"), ("update", "more"),
    ]  # fmt: skip


def test_a_listener_may_disconnect_the_store(make, site, url, told):
    store = make(url)
    events = told(store)
    store.event_manager.connect(StoreModificationEvent, lambda event: store.disconnect())
    site.index = {}
    store.update_index()
    assert [event[:2] for event in events] == [("delete", "a")]
    assert not store.is_connected()


def test_an_interrupt_while_it_is_told_loses_nothing(make, site, url, told):
    class Manager(EventManager):
        interrupt = True

        def emit(self, event, block=True):
            if self.interrupt:
                self.interrupt = False
                raise KeyboardInterrupt
            super().emit(event, block)

    store = make(url, event_manager=Manager())
    events = told(store)
    site.index = {"x": {}}
    with pytest.raises(KeyboardInterrupt):
        store.update_index()
    store.update_index()
    assert [event[:2] for event in events] == [("delete", "b/c"), ("set", "x")]


# Threads


class Gate:
    """Lets answers for the index wait for each other; its content is settled when they are asked for."""

    def __init__(self, site):
        self.site = site
        self.count = 0
        self.arrived = [threading.Event() for _ in range(10)]
        self.open = [threading.Event() for _ in range(10)]
        self.bodies = {}

    def __call__(self, handler):
        if not handler.path.startswith("/index.json"):
            return False
        number, self.count = self.count, self.count + 1
        body = self.bodies.get(number) or json.dumps(self.site.index).encode()
        self.arrived[number].set()
        self.open[number].wait(PATIENCE)
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
    for number in range(1, 30):
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
        store.update_index()
        found = list(store.keys())
        now = len(polling_threads())
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
    site.index = {"a": {"n": 1}}
    thread = in_thread(store.update_index)
    wait(is_telling)
    site.index = {"a": {"n": 5}}

    def use():
        events = told(store)
        with store._session._lock:
            pass
        store.update_index()
        return [event[:2] for event in events]

    assert in_a_fork(use) == repr([("update", "a")])
    go_on.set()
    join(thread)


# Who asks


def guarded(users, realm="a place"):
    """Return a hook that lets some in, by HTTP Basic."""
    from base64 import b64encode

    allowed = {"Basic " + b64encode(user.encode()).decode() for user in users}

    def hook(handler):
        if handler.headers.get("Authorization") in allowed:
            return False
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", f'Basic realm="{realm}"')
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return hook


ME = {"username": "me", "password": "w\u00f6rd:x"}


def test_credentials_are_for_any_realm(make, site):
    with serving(site, hook=guarded(["me:w\u00f6rd:x"])) as url:
        store = make(url, connect=False)
        with pytest.raises(AuthorizationError):
            store.connect()
        with pytest.raises(AuthorizationError):
            store.connect({**ME, "password": "wrong"})
        assert not store.is_connected()
        for credentials in (
            ME,
            {"user": "me", "passwd": "w\u00f6rd:x"},
            {**ME, "realm": "a place"},
            {**ME, "uri": url},
            {**ME, "realm": None},
        ):
            store.connect(credentials)
            assert store.to_bytes("a") == b"data of a"
            store.disconnect()
        for credentials in ({**ME, "realm": "another"}, {**ME, "uri": "http://127.0.0.1:1/"}):
            with pytest.raises(AuthorizationError):
                store.connect(credentials)


def test_credentials_in_the_url(make, site):
    with serving(site, hook=guarded(["me:w@rd"])) as url:
        store = make(url.replace("//", "//me:w%40rd@"))
        assert store.to_bytes("a") == b"data of a"
        assert store.root_url == url
        store.disconnect()
        with pytest.raises(AuthorizationError):
            store.connect(ME)


@pytest.mark.parametrize(
    ("credentials", "error"),
    [("me:word", TypeError), (["me", "word"], TypeError), ({"username": "me"}, ValueError), ({}, ValueError),
     ({"username": "me", "password": None}, TypeError), ({"username": b"me", "password": "word"}, TypeError),
     ({**ME, "realm": 5}, TypeError), ({**ME, "uri": b""}, TypeError), ({**ME, "more": 5}, TypeError)],
)  # fmt: skip
def test_what_is_no_credentials(make, site, url, credentials, error):
    store = make(url, connect=False)
    with pytest.raises(error) as caught:
        store.connect(credentials)
    assert "word" not in str(caught.value).replace("password", "")
    assert not store.is_connected()
    assert site.seen == []


def test_factories_of_urllib(make, site):
    def password(**more):
        return {"user": "me", "passwd": "w\u00f6rd:x", **more}

    with serving(site, hook=guarded(["me:w\u00f6rd:x"])) as url:
        store = make(url, connect=False)
        for arguments in (
            {"credentials": ME, "auth_handler_factory": urllib.request.HTTPBasicAuthHandler},
            {"credentials": ME, "auth_handler_factory": basic_auth_factory},
            {"auth_handler_factory": lambda: basic_auth_factory(**ME, uri=url)},
            {"auth_handler_factory": lambda: basic_auth_factory(**password(uri=url, realm="a place"))},
            {
                "credentials": ME,
                "auth_handler_factory": lambda: urllib.request.HTTPBasicAuthHandler(
                    urllib.request.HTTPPasswordMgrWithPriorAuth()
                ),
            },
        ):  # fmt: skip
            store.connect(**arguments)
            assert store.to_bytes("a") == b"data of a"
            store.disconnect()
        # Who wants Digest does not want the password sent.
        with pytest.raises(AuthorizationError):
            store.connect(ME, auth_handler_factory=urllib.request.HTTPDigestAuthHandler)
    assert isinstance(basic_auth_factory(), urllib.request.HTTPBasicAuthHandler)
    with pytest.raises(TypeError):
        store.connect(ME, auth_handler_factory=lambda: None)


class TokenHandler(urllib.request.BaseHandler):
    """A handler as it may have been written for EnCore 0.8: only urllib knows how to use it."""

    def __init__(self):
        self.given = None

    def add_password(self, uri, realm, username, password):
        self.given = (uri, realm, username, password)

    def http_request(self, request):
        if self.given is not None:
            request.add_unredirected_header("Authorization", f"Token {self.given[3]}")
        return request


def test_a_handler_that_only_urllib_can_use(make, site):
    tokens = []
    made = []

    def hook(handler):
        tokens.append(handler.headers.get("Authorization"))
        return False

    def factory():
        made.append(TokenHandler())
        return made[-1]

    with serving(site, hook=hook) as url:
        store = make(url, connect=False)
        store.connect({"username": "me", "password": "word"}, auth_handler_factory=factory)
        assert made[0].given == (url, "encore.storage", "me", "word")
        assert store.to_bytes("a") == b"data of a"
        with store.get_data_range("b/c", 5, 7) as stream:
            assert stream.read() == b"of"
        assert store.get("a").size == 9
        assert set(tokens) == {"Token word"}
        store.update_index()
        with pytest.raises(KeyError):
            store.get("b").data  # noqa: B018 - it raises


def test_such_a_handler_is_not_asked_for_other_servers(make, site):
    there = Site({"a": (b"elsewhere", {})})
    seen = []

    def elsewhere(handler):
        seen.append(handler.headers.get("Authorization"))
        return False

    with serving(there, hook=elsewhere) as other:

        def hook(handler):
            if handler.path.startswith("/data"):
                handler.reply(302, {"Location": f"{other}data/a"}, b"", False)
                return True
            return False

        with serving(site, hook=hook) as url:
            store = make(url, connect=False)
            store.connect(ME, auth_handler_factory=TokenHandler)
            assert store.to_bytes("a") == b"elsewhere"
    assert seen == [None]


def test_a_proxy(make, site):
    """What goes by way of a proxy names the server in its first line."""
    lines = []

    def hook(handler):
        lines.append(handler.path)
        handler.path = "/" + handler.path.split("/", 3)[3]
        return False

    with serving(site, hook=hook) as url:
        store = make("http://other.invalid/", connect=False)
        store.connect(proxy_handler=urllib.request.ProxyHandler({"http": url}))
        assert store.to_bytes("a") == b"data of a"
        store.disconnect()
        store.connect(
            {"username": "me", "password": "word"},
            urllib.request.ProxyHandler({"http": url}),
            TokenHandler,
        )
        assert store.to_bytes("a") == b"data of a"
    assert {line.partition("/data")[0].partition("/index")[0] for line in lines} == {
        "http://other.invalid"
    }
