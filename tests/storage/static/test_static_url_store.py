"""StaticURLStore: how it is made and connected, its index, what it tells."""

from __future__ import annotations

import gzip
import inspect
import json
import logging
import pickle
import threading

import pytest
from static_site import PATHS, PATIENCE, Site, in_thread, join, polling_threads, serving

from encore.events.event_manager import EventManager
from encore.events.package_globals import get_event_manager
from encore.storage.errors import StoreError
from encore.storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreModificationEvent,
)
from encore.storage.static_url_store import StaticURLStore


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


def test_what_is_not_ascii_is_encoded():
    store = StaticURLStore(
        "http://h\u00f6st:80/\u00e4 b/%20", "d\u00e4ta/", "i\u00f6 x?a=b&c=%2F\u00fc"
    )
    assert store._index_url == "http://xn--hst-sna:80/%C3%A4%20b/%20i%C3%B6%20x?a=b&c=%2F%C3%BC"
    assert store._data_url == "http://xn--hst-sna:80/%C3%A4%20b/%20d%C3%A4ta/"


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
    ["a/b", "a b", "\u00e4", "\u00e4\U0001f600", "a%2Fb", "%", "a?b", "a#b", "a+b&c=d;e", "a\nb", "\0", "..", ".",
     "a/../b", "./a", "/a", "a/", "a//b", "~a", "\\", "'\"<>"],
)  # fmt: skip
def test_any_key_makes_the_trip(make, site, url, key):
    site.set(key, key.encode(), {"key": key})
    store = make(url)
    assert store.to_bytes(key) == key.encode()
    assert [found for found, _ in store.query(key=key)] == [key]
    [path] = [path for _, path, _ in site.seen if path.startswith("/data/")]
    assert not {"", ".", ".."} & set(path[len("/data/") :].split("/"))
    assert store.get(key).url.isascii()
    # Some servers read a plus as a space.
    assert set("!$&'()*+,;=:@").isdisjoint(path)


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
    site.index_bytes = json.dumps({"\u00e4": {"\u00f6": "\u00fc"}}, ensure_ascii=False).encode(
        "utf-8-sig"
    )
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


def test_check_finds_what_the_server_does_not_have(make, site, url):
    store = make(url)
    assert store.check() == []
    del site.data["b/c"]
    assert [(each.key, each.problem) for each in store.check()] == [
        ("b/c", "the index has it, but there are no data")
    ]


# What is said of mistakes


def test_a_root_without_its_slash_is_told(site, make):
    with serving(site) as url:
        store = make(f"{url}folder", connect=False)
        with pytest.raises(StoreError) as caught:
            store.connect()
        assert str(caught.value).startswith(f"{url}folderindex.json: ")
        assert str(caught.value).endswith("root_url has no slash at its end")
        store = make(f"{url}folder/", connect=False)
        with pytest.raises(StoreError) as caught:
            store.connect()
        assert "slash" not in str(caught.value)


def test_an_index_that_is_a_page_is_told(site, url, make):
    site.index_bytes = b"\n<!DOCTYPE html><title>Log in</title>"
    with pytest.raises(StoreError, match="is no index: it is HTML"):
        make(url)


def test_what_would_write_is_not_there_and_says_why():
    store = StaticURLStore("http://localhost/", *PATHS)
    for name in ("set", "delete", "transaction"):
        assert not hasattr(store, name)
        with pytest.raises(AttributeError, match=f"no attribute '{name}': it can only be read"):
            getattr(store, name)
    with pytest.raises(AttributeError, match=r"no attribute 'other'$"):
        store.other  # noqa: B018 - it is not there
