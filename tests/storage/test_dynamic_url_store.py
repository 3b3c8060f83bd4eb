"""DynamicURLStore with a server of ours; what the conformance kit does not look at."""

from __future__ import annotations

import io
import json
import pickle
import ssl
from types import MappingProxyType

import pytest
from application_transport import APPLICATIONS, store_on
from served_stores import OldStore

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage._spool import spooled
from encore.storage.abstract_store import AbstractAuthorizingStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import (
    AuthorizationError,
    PreconditionError,
    StoreError,
    TemporaryError,
)
from encore.storage.events import StoreModificationEvent, StoreProgressStepEvent, StoreSetEvent
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication
from encore.storage.string_value import StringValue
from encore.storage.wrapper_store import WrapperStore

LARGE = bytes(range(256)) * 1000


class Watched:
    """An application that writes down what it is asked, and may do something else.

    Attributes
    ----------
    log : list of (str, dict)
        Method and path; headers.
    instead : callable or None
        Called with the environment; returns None, or status, headers and body.
    after : callable or None
        Called when the application has answered; what it raises comes instead of the answer.
    """

    def __init__(self, application):
        self.application = application
        self.log = []
        self.instead = self.after = None

    def __call__(self, environ, start_response):
        line = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.log.append((line, environ))
        if self.instead is not None:
            found = self.instead(environ)
            if found is not None:
                status, headers, body = found
                start_response(f"{status} -", [("Content-Length", str(len(body))), *headers])
                return [body]
        answer = self.application(environ, start_response)
        if self.after is not None:
            answer = [b"".join(answer)]
            self.after()
        return answer

    @property
    def lines(self):
        return [line for line, _ in self.log]


@pytest.fixture
def inner():
    with DictMemoryStore(event_manager=EventManager()) as store:
        yield store


@pytest.fixture
def application(inner):
    return Watched(StoreApplication(inner))


@pytest.fixture
def store(application):
    with store_on(
        application, event_manager=EventManager(), policy=RetryPolicy(3, first_delay=0)
    ) as store:
        application.log.clear()
        yield store
    APPLICATIONS.clear()


def put(store, key, data=b"data", /, **metadata):
    store.set(key, (io.BytesIO(data), metadata))


# URLs


@pytest.mark.parametrize(
    ("key", "quoted"),
    [
        ("a", "a"),
        ("a/b", "a/b"),
        ("a b", "a%20b"),
        ("a%2Fb", "a%252Fb"),
        ("\u00fc", "%C3%BC"),
        ("~x!$&'()*+,;=:@?#[]", "~x!$&'()*+,;=:@%3F%23%5B%5D"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a//b", "a%2F%2Fb"),
        ("a/../b.c", "a%2F%2E%2E%2Fb.c"),
    ],
)
def test_urls_are_those_of_08_except_for_what_would_be_lost(key, quoted):
    store = DynamicURLStore("http://h/b", "http://h/q")
    assert store._url(key, "data") == f"http://h/b/{quoted}/data"
    assert store._url(key, "permissions") == f"http://h/b/{quoted}/auth"
    assert store._url(key) == f"http://h/b/{quoted}"
    with pytest.raises(KeyError):
        store._url(key, "auth")


def test_formats_and_parts_are_the_callers():
    parts = MappingProxyType({"data": "d", "metadata": "m", "permissions": "p"})
    store = DynamicURLStore("http://h/b/", "http://h/q", "{base}{part}/{key}", "{base}x/{key}", parts)
    assert store._url("k/l", "metadata") == "http://h/b/m/k/l"
    assert store._url("k") == "http://h/b/x/k"
    assert store._url("k", "value") == "http://h/b/value/k"
    assert dict(parts) == {"data": "d", "metadata": "m", "permissions": "p"}
    assert DynamicURLStore("http://h/b/", "http://h/q")._url("k") == "http://h/b/k"


def test_a_key_in_the_query_of_a_url_separates_nothing():
    store = DynamicURLStore("http://h/b", "http://h/q", "{base}?part={part}&key={key}&x=1")
    assert store._url("a&b=/+", "data") == "http://h/b?part=data&key=a%26b%3D%2F%2B&x=1"


def test_default_parts_are_not_shared():
    one, other = (DynamicURLStore("http://h/b", "http://h/q") for _ in range(2))
    one.parts["data"] = "changed"
    assert other.parts["data"] == "data"
    assert DynamicURLStore("http://h/b", "http://h/q")._url("k", "data").endswith("/data")


@pytest.mark.parametrize(
    ("arguments", "named", "error"),
    [
        ((b"http://h/", "http://h/"), {}, TypeError),
        (("http://h/", None), {}, TypeError),
        (("http://h/", "http://h/", 5), {}, TypeError),
        (("http://h/", "http://h/", "{base}/{kee}"), {}, ValueError),
        (("http://h/", "http://h/", "{base}/{key}/{part}", "{base}/{key}/{part}"), {}, ValueError),
        (("http://h/", "http://h/", "{"), {}, ValueError),
        (("http://h/", "http://h/"), {"parts": {"data": "d"}}, ValueError),
        (("http://h/", "http://h/"), {"parts": {"data": 5}}, TypeError),
        (("http://h/", "http://h/"), {"timeout": "x"}, TypeError),
        (("http://h/", "http://h/"), {"timeout": 0}, ValueError),
        (("http://h/", "http://h/"), {"timeout": float("nan")}, ValueError),
        (("http://h/", "http://h/"), {"policy": 3}, TypeError),
        ((EventManager(), "http://h/", "http://h/"), {}, TypeError),
    ],
)
def test_bad_arguments(arguments, named, error):
    with pytest.raises(error):
        DynamicURLStore(*arguments, **named)


@pytest.mark.parametrize("url", ["ftp://h/", "h:80/keys", "/keys"])
def test_only_a_session_knows_what_other_urls_are(url):
    with pytest.raises(ValueError, match="http"):
        DynamicURLStore(url, "http://h/query").connect()


# Credentials


@pytest.mark.parametrize(
    "credentials",
    [
        "secret",
        ("secret",),
        ("secret", None, 5),
        (b"secret", None),
        {"username": "me"},
        {"username": "me", "password": b"secret"},
        {"secret": 5},
        ["secret", None],
    ],
)
def test_bad_credentials_are_not_shown(credentials):
    store = DynamicURLStore("http://h/keys", "http://h/query")
    with pytest.raises(TypeError) as caught:
        store.connect(credentials)
    assert "secret" not in str(caught.value)
    assert not store.is_connected()


@pytest.fixture
def guarded(inner):
    """The URL of a server that wants a password."""
    application = StoreApplication(inner, authenticate=lambda name, password: password == "right")
    server = Server(application, "127.0.0.1", 0).start()
    yield server.url
    server.stop(0)


def test_name_and_password(guarded):
    store = DynamicURLStore(f"{guarded}keys", f"{guarded}query")
    with pytest.raises(StoreError, match="not connected"):
        store.user_tag
    for credentials in (None, ("me", None), {"username": "me", "password": "wrong"}):
        with pytest.raises(AuthorizationError):
            store.connect(credentials)
        assert not store.is_connected()
    store.connect({"username": "me", "password": "right"})
    assert store.user_tag == "me"
    store.from_bytes("k", b"data")
    assert store.to_bytes("k") == b"data"
    assert "right" not in f"{store!r}{store.info()}"
    assert b"right" not in pickle.dumps(store)
    store.disconnect()
    with pytest.raises(AuthorizationError):
        store.connect()


def test_a_login_in_the_url(guarded):
    url = guarded.replace("//", "//me:right@")
    store = DynamicURLStore(f"{url}keys", f"{url}query")
    with store:
        assert store.user_tag == "me"
        store.from_bytes("k", b"data")
    assert store.base_url == f"{guarded}keys"
    assert "right" not in repr(store)
    copy = pickle.loads(pickle.dumps(store))
    assert b"right" not in pickle.dumps(store)
    with pytest.raises(AuthorizationError):
        copy.connect()
    with pytest.raises(AuthorizationError):
        store.connect({"username": "me", "password": "wrong"})


def test_nobody_is_a_user_without_a_name():
    unnamed = DynamicURLStore("http://h/keys", "http://h/query")
    assert unnamed._transport(None)[0] == ""
    assert unnamed._transport(("you", None))[0] == "you"


def test_a_context_of_ssl_is_not_pickled():
    store = DynamicURLStore("https://h/keys", "https://h/query", ssl_context=ssl.create_default_context())
    copy = pickle.loads(pickle.dumps(store))
    assert copy._ssl_context is None
    assert copy._url("k", "data") == "https://h/keys/k/data"


# What the server says of itself


def test_the_server_is_asked_once(application, inner):
    store = store_on(application)
    assert store.info()["conditional"] is False
    store.connect()
    info = store.info()
    assert application.lines == ["OPTIONS /query"]
    assert info["conditional"] is True
    assert info["durable"] == "none"
    assert info["transactional"] is False
    store.disconnect()
    assert store.info() == info
    assert application.lines == ["OPTIONS /query"]


def description(**info):
    return json.dumps({"encore": 1, "version": "x", "info": info}).encode()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"durable": "power"}, {"durable": "power"}),
        ({"durable": "for ever", "readonly": "yes", "conditional": 1}, {"readonly": False}),
        ({"max_key_bytes": 10}, {"max_key_bytes": 10}),
        ({"max_key_bytes": 5000}, {}),
        ({"max_key_bytes": True}, {}),
        ({"transactional": True, "type": "X", "path": "/secret"}, {"transactional": False}),
    ],
)
def test_only_what_can_be_is_believed(said, expected):
    application = Watched(None)
    application.instead = lambda environ: (
        200,
        [("Content-Type", "application/json")],
        description(**said),
    )
    with store_on(application) as store:
        info = store.info()
        assert {**info, **expected} == info
        assert info["type"] == "ApplicationStore"
        assert "path" not in info
        assert ("max_key_bytes" in info) is ("max_key_bytes" in expected)


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (200, "text/html", b"<html>"),
        (200, "application/json", b"{"),
        (200, "application/json", b'{"encore": 2}'),
        (200, "application/json", b"[1]"),
        (200, "application/json", b" " * 200_000),
        (204, "text/plain", b""),
        (404, "text/plain", b""),
        (405, "text/plain", b""),
        (500, "text/plain", b""),
        (501, "text/plain", b""),
    ],
)
def test_any_other_answer_is_of_a_classic_server(status, kind, body):
    application = Watched(None)
    application.instead = lambda environ: (status, [("Content-Type", kind)], body)
    with store_on(application, policy=RetryPolicy(1)) as store:
        assert store.info()["conditional"] is False
        assert store.info()["durable"] == "process"


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthorizationError), (403, AuthorizationError), (503, TemporaryError), (429, TemporaryError)],
)
def test_refusals_of_the_moment_or_of_the_user_are_told(status, error):
    application = Watched(None)
    application.instead = lambda environ: (status, [], b"")
    store = store_on(application, policy=RetryPolicy(2, first_delay=0))
    with pytest.raises(error):
        store.connect()
    assert not store.is_connected()
    assert len(application.log) == (2 if error is TemporaryError else 1)


def test_a_readonly_server_refuses_before_anything_is_read(inner):
    inner.from_bytes("k", b"data")
    application = Watched(StoreApplication(ReadOnlyStore(inner)))
    with store_on(application) as store:
        assert store.info()["readonly"] is True
        application.log.clear()

        class Untouched:
            def read(self, size):
                pytest.fail("the stream was read")

        for call in (
            lambda: store.set("k", (Untouched(), {})),
            lambda: store.set("new", StringValue(b"x")),
            lambda: store.set_data("k", Untouched()),
            lambda: store.set_metadata("k", {}),
            lambda: store.update_metadata("k", {}),
            lambda: store.delete("k"),
            lambda: store.delete("no"),
            lambda: store.set_permissions("k", {"owned": ["me"]}),
            lambda: store.update_permissions("k", {}),
        ):
            with pytest.raises(AuthorizationError, match="can only be read"):
                call()
        assert application.log == []
        with pytest.raises(TypeError):
            store.set_metadata("k", None)
        assert store.to_bytes("k") == b"data"


def test_a_key_may_be_too_long_for_the_server(inner):
    prefix = "p" * 1000
    with store_on(StoreApplication(PrefixStore(inner, prefix))) as store:
        assert store.info()["max_key_bytes"] == 24
        store.from_bytes("\u00e9" * 12, b"x")
        assert list(inner.query_keys()) == [prefix + "\u00e9" * 12]
        for key in ("\u00e9" * 12 + "x", "k" * 25):
            for call in (
                lambda key=key: store.exists(key),
                lambda key=key: store.get_data(key),
                lambda key=key: store.get_permissions(key),
                lambda key=key: store.from_bytes(key, b""),
            ):
                with pytest.raises(ValueError, match="24 bytes"):
                    call()


# Requests


def test_set_is_one_request_for_data_and_metadata(store, application):
    put(store, "k", b"data", a=1)
    put(store, "k", LARGE, a=2)
    assert application.lines == ["PUT /keys/k/value"] * 2
    for (_, environ), size in zip(application.log, (4, len(LARGE)), strict=True):
        assert environ["CONTENT_LENGTH"] == str(size + len('{"a":1}'))
        assert environ["HTTP_ENCORE_METADATA_LENGTH"] == "7"


def test_what_has_no_size_is_sent_in_chunks(store, application, inner):
    class Stream:
        def __init__(self, data):
            self.data = data

        def read(self, size):
            piece, self.data = self.data[:size], self.data[size:]
            return piece

    store.set("k", (Stream(LARGE), {}))
    assert application.log[-1][1]["HTTP_TRANSFER_ENCODING"] == "chunked"
    assert inner.to_bytes("k") == LARGE
    store.set("k", StringValue(LARGE + b"x"))
    assert application.log[-1][1]["CONTENT_LENGTH"] == str(len(LARGE) + 3)
    assert inner.to_bytes("k") == LARGE + b"x"


def test_metadata_are_sent_back_only_if_somebody_wants_them(store, application):
    def preference():
        return application.log[-1][1].get("HTTP_PREFER")

    changes = [
        lambda: store.set_data("k", io.BytesIO(b"x")),
        lambda: store.update_metadata("k", {"a": 1}),
        lambda: store.delete("k"),
    ]
    put(store, "k")
    for change in changes:
        change()
        assert preference() == "return=minimal"
    put(store, "k", a=0)
    told = []

    def listener(event):
        told.append(event.metadata)

    store.event_manager.connect(StoreModificationEvent, listener)
    for change in changes:
        change()
        assert preference() is None
    assert told == [{"a": 0}, {"a": 1}, {"a": 1}]


def test_who_begins_to_listen_while_data_are_read_is_told(store):
    put(store, "k", a=1)
    told = []

    def listener(event):
        told.append(event.metadata)

    class Stream:
        left = 2

        def read(self, size):
            store.event_manager.connect(StoreModificationEvent, listener)
            self.left -= 1
            return b"x" * self.left

    store.set_data("k", Stream())
    assert told == [{"a": 1}]


def test_a_wrapper_is_told_what_happened(store):
    wrapper = WrapperStore(store, event_manager=EventManager())
    told = []

    def listener(event):
        told.append((type(event).__name__, event.key, event.metadata, event.source))

    wrapper.event_manager.connect(StoreModificationEvent, listener)
    put(wrapper, "k", a=1)
    wrapper.set_data("k", io.BytesIO(b"x"))
    wrapper.delete("k")
    assert told == [
        ("StoreSetEvent", "k", {"a": 1}, wrapper),
        ("StoreUpdateEvent", "k", {"a": 1}, wrapper),
        ("StoreDeleteEvent", "k", {"a": 1}, wrapper),
    ]


def test_what_a_stream_does_meanwhile_is_its_own_doing(store):
    wrapper = WrapperStore(store, event_manager=EventManager())
    told = []

    def listener(event):
        told.append(event.key)

    wrapper.event_manager.connect(StoreModificationEvent, listener)

    class Stream:
        data = b"x"

        def read(self, size):
            store.from_bytes("other", b"")
            data, self.data = self.data, b""
            return data

    wrapper.set("k", (Stream(), {}))
    assert store.exists("other")
    assert told == ["k"]


# Values


def test_a_small_value_is_one_request(store, application):
    put(store, "k", b"x" * 65536, a=1)
    application.log.clear()
    value = store.get("k")
    assert value.data.read() == b"x" * 65536
    assert value.range(-2).read() == b"xx"
    assert value.metadata == {"a": 1}
    assert application.lines == ["GET /keys/k/value"]


def test_of_a_large_value_the_data_are_asked_for_by_its_etag(store, application, inner):
    put(store, "k", LARGE, a=1)
    application.log.clear()
    value = store.get("k")
    there = inner.get("k")
    assert (value.size, value.etag) == (len(LARGE), there.etag)
    assert (value.created, value.modified) == (there.created, there.modified)
    assert value.data.read() == LARGE
    assert application.lines == ["GET /keys/k/value", "GET /keys/k/data"]
    assert application.log[-1][1]["HTTP_IF_MATCH"] == f'"{there.etag}"'
    assert value.range(10, 20).read() == LARGE[10:20]
    assert application.log[-1][1]["HTTP_RANGE"] == "bytes=10-19"
    inner.set_metadata("k", {"a": 2})
    assert value.metadata == {"a": 1}
    for read in (lambda: value.data, value.range, lambda: value.range(5, 9)):
        with pytest.raises(StoreError, match="overwritten") as caught:
            read()
        assert caught.value.key == "k"
    inner.delete("k")
    with pytest.raises(StoreError, match="deleted"):
        value.data.read()


def test_an_open_stream_keeps_what_it_opened(store, inner):
    put(store, "k", LARGE)
    with store.get("k").data as stream:
        assert stream.read(5) == LARGE[:5]
        inner.delete("k")
        assert stream.read() == LARGE[5:]


@pytest.mark.parametrize(
    ("start", "end", "requests"),
    [
        (None, None, 1),
        (0, None, 1),
        (5, None, 1),
        (5, 10, 1),
        (0, 10**9, 1),
        (-10, None, 1),
        (-(10**9), None, 1),
        (len(LARGE), None, 1),
        (len(LARGE) + 5, 10**9, 1),
        (10, 5, 1),
        (0, 0, 1),
        (-10, -5, 2),
        (5, -5, 2),
        (-10, 10**9, 2),
    ],
)
def test_a_range_is_one_request_where_the_bounds_say_which(store, application, start, end, requests):
    put(store, "k", LARGE)
    application.log.clear()
    with store.get_data_range("k", start, end) as stream:
        assert stream.read() == LARGE[start:end]
    assert len(application.log) == requests
    with pytest.raises(KeyError, match="'no'"):
        store.get_data_range("no", start, end)


def test_reading_little_of_much_transfers_little(store, application):
    put(store, "k", LARGE)
    with store.get_data_range("k", 1000, 1010) as stream:
        stream.read()
    assert application.log[-1][1]["HTTP_RANGE"] == "bytes=1000-1009"


def test_a_value_of_unknown_size():
    with store_on(StoreApplication(OldStore(large=LARGE, small=b"12345"))) as store:
        small, large = store.get("small"), store.get("large")
        assert small.size == 5
        assert large.size is None
        assert large.etag is None
        assert large.data.read() == LARGE
        for start, end in [(0, 10), (5, None), (-5, None), (-5, -1), (5, 3), (10**7, None), (0, -1)]:
            assert large.range(start, end).read() == LARGE[start:end]


def test_a_value_has_its_own_copy_of_the_metadata(store):
    put(store, "k", a=[1])
    value = store.get("k")
    value.metadata["a"].append(2)
    assert value.metadata == {"a": [1]}


@pytest.mark.parametrize("headers", [[], [("Encore-Metadata-Length", "99")]])
def test_an_answer_that_is_no_value_is_a_store_error(store, application, headers):
    put(store, "k")
    application.instead = lambda environ: (200, headers, b"{}data")
    with pytest.raises(StoreError, match="no metadata"):
        store.get("k")


@pytest.mark.parametrize(
    ("text", "length", "error"),
    [(b"{}data", "5", "not whole"), (b"[]data", "4", "damaged"), (b"{}", "x", None)],
)
def test_a_value_that_is_damaged_on_its_way(store, application, text, length, error):
    headers = [("Encore-Metadata-Length", "2"), ("Encore-Data-Length", length)]
    application.instead = lambda environ: (200, headers, text)
    if error is None:
        assert store.get("k").size is None
        return
    with pytest.raises(StoreError, match=error):
        store.get("k")


# Queries


def test_a_cut_answer_gives_nothing(store, application):
    for lines in (b"", b'"a"\n', b'"a"\nnull', b'"a"\nnul'):
        application.instead = lambda environ, lines=lines: (200, [], lines)
        for walk in (store.query_keys(), store.keys(), store.query()):
            with pytest.raises(StoreError, match="too early"):
                next(walk)


@pytest.mark.parametrize("line", ["5", '["a"]', '["a", 5]', '{"a": 1}', "[", '["", {}]', '""', "x"])
def test_nonsense_is_a_store_error(store, application, line):
    application.instead = lambda environ: (200, [], f"{line}\nnull\n".encode())
    for walk in (store.query_keys(), store.keys(), store.query()):
        with pytest.raises(StoreError):
            list(walk)


def test_an_answer_is_read_whole_before_the_first_key_is_given(store, application, monkeypatch):
    monkeypatch.setattr(spooled, "__defaults__", (10,))
    store.multiset([f"k{n}" for n in range(50)], [StringValue(b"", {"n": n}) for n in range(50)])
    count = 0
    for key, metadata in store.query():
        assert metadata == {"n": int(key[1:])}
        store.delete(key)
        count += 1
    assert count == 50
    assert list(store.query_keys()) == []


def test_what_is_asked_for_is_all_that_comes(store, application):
    store.multiset(["a1", "a2", "b"], [StringValue(b"", {"n": n, "m": "x"}) for n in range(3)])
    application.log.clear()

    def posted():
        (_, environ), application.log[:] = application.log[-1], []
        environ["wsgi.input"].seek(0)
        return json.loads(environ["wsgi.input"].read())

    assert list(store.query(select=["n"], n=1)) == [("a2", {"n": 1})]
    assert posted() == {"where": {"n": 1}, "select": ["n"]}
    assert list(store.query_keys(where={"select": 1, "n": 2})) == []
    assert posted() == {"where": {"select": 1, "n": 2}, "keys_only": True}
    assert list(store.keys("a", "a1", 5)) == ["a2"]
    assert posted() == {"prefix": "a", "start_after": "a1", "limit": 5, "keys_only": True}
    assert list(store.keys()) == ["a1", "a2", "b"]
    assert posted() == {"prefix": "", "start_after": "", "limit": None, "keys_only": True}
    assert sorted(store.glob("a*")) == ["a1", "a2"]
    assert posted() == {"glob": "a*", "keys_only": True}


# When answers are lost


def lose(application, count=1):
    """Let the next answers be lost, after the application has done its work."""
    left = [count]

    def after():
        if left[0]:
            left[0] -= 1
            raise TemporaryError("the answer was lost")

    application.after = after


def test_what_is_safe_to_repeat_is_repeated(store, application, inner):
    put(store, "k", a=1)
    for call in (
        lambda: put(store, "k", b"new", a=2),
        lambda: put(store, "k", LARGE, a=2),
        lambda: store.set("k", StringValue(LARGE)),
        lambda: store.set_data("k", io.BytesIO(b"x")),
        lambda: store.set_metadata("k", {"a": 3}),
        lambda: store.update_metadata("k", {"b": 4}),
        lambda: store.get("k"),
        lambda: store.exists("k"),
        lambda: store.get_metadata("k"),
        lambda: list(store.query()),
    ):
        lose(application, 2)
        application.log.clear()
        call()
        assert len(application.log) == 3
    assert inner.get_metadata("k") == {"a": 3, "b": 4}


def test_a_stream_that_is_gone_is_not_repeated(store, application):
    class Stream:
        left = 5

        def read(self, size):
            self.left -= 1
            return b"x" * 60_000 if self.left > 0 else b""

    put(store, "k")
    lose(application)
    application.log.clear()
    with pytest.raises(TemporaryError):
        store.set_data("k", Stream())
    assert len(application.log) == 1


def test_what_has_a_condition_is_not_repeated(store, application, inner):
    put(store, "k")
    for call in (
        lambda etag: store.set("k", (io.BytesIO(b"1"), {}), if_match=etag),
        lambda etag: store.set_data("k", io.BytesIO(b"2"), if_match=etag),
        lambda etag: store.set_metadata("k", {"a": 3}, if_match=etag),
        lambda etag: store.update_metadata("k", {"b": 4}, if_match=etag),
        lambda etag: store.set_data("new", io.BytesIO(), if_none_match="*"),
        lambda etag: store.delete("k", if_match=etag),
    ):
        etag = inner.get("k").etag
        lose(application)
        application.log.clear()
        with pytest.raises(TemporaryError) as caught:
            call(etag)
        assert caught.value.happened is None
        assert len(application.log) == 1
        application.after = None
    assert not inner.exists("k")


def test_a_delete_whose_answer_was_lost_is_done(store, application, inner, recorded):
    put(store, "k", a=1)
    told = recorded(store)
    lose(application)
    store.delete("k")
    assert not inner.exists("k")
    assert [(name, key) for name, key, _, _ in told] == [("StoreDeleteEvent", "k")]
    with pytest.raises(KeyError):
        store.delete("k")


def test_a_request_that_was_not_done_is_no_lost_answer(store, application):
    def instead(environ):
        application.instead = None
        return 429, [], b""

    application.instead = instead
    with pytest.raises(KeyError):
        store.delete("k")
    assert len(application.log) == 2


# Conditions


@pytest.mark.parametrize("etag", ["", "*", 'a"b', "a,b", "W/x", "%22", "\u00e9", "\ud800", "a\r\nb"])
def test_any_text_may_be_compared_with_an_etag(store, application, etag):
    put(store, "k")
    with pytest.raises(PreconditionError) as caught:
        store.set_metadata("k", {}, if_match=etag)
    assert caught.value.key == "k"
    sent = application.log[-1][1]["HTTP_IF_MATCH"]
    assert sent.isascii()
    assert sent.isprintable()


def test_an_odd_etag_makes_the_round_trip():
    class OddValue(StringValue):
        etag = 'a"b%\u00e9 ,'

    class Inner(DictMemoryStore):
        def get(self, key):
            with super().get(key).data as stream:
                return OddValue(stream.read())

    with Inner(event_manager=EventManager()) as inner:
        inner.from_bytes("k", LARGE)
        with store_on(StoreApplication(inner)) as store:
            value = store.get("k")
            assert value.etag == OddValue.etag
            assert value.data.read() == LARGE


# Permissions


class Owned(WrapperStore, AbstractAuthorizingStore):
    """A store with permissions."""

    def __init__(self, store):
        super().__init__(store, event_manager=EventManager())
        self.tags = {}

    @property
    def user_tag(self):
        return "me"

    def _of(self, key):
        if not self.exists(key):
            raise KeyError(key)
        permissions = self.tags.setdefault(key, {"owned": {"me"}})
        if "me" not in permissions["owned"]:
            raise AuthorizationError("not yours", key=key)
        return permissions

    def get_permissions(self, key):
        return {name: set(tags) for name, tags in self._of(key).items()}

    def set_permissions(self, key, permissions):
        self._of(key)
        self.tags[key] = {name: set(tags) for name, tags in permissions.items()}

    def update_permissions(self, key, permissions):
        for name, tags in permissions.items():
            self._of(key).setdefault(name, set()).update(tags)


def test_permissions(inner):
    with store_on(StoreApplication(Owned(inner))) as store:
        put(store, "k")
        assert store.get_permissions("k") == {"owned": {"me"}} == store.get("k").permissions
        store.update_permissions("k", {"read": ["you", "you"]})
        assert store.get_permissions("k") == {"owned": {"me"}, "read": {"you"}}
        store.set_permissions("k", {"owned": iter(["me"]), "a/\u00e9": set()})
        assert store.get_permissions("k") == {"owned": {"me"}, "a/\u00e9": set()}
        store.set_permissions("k", {"owned": ["you"]})
        for call in (
            store.get_permissions,
            lambda key: store.set_permissions(key, {"owned": ["me"]}),
            lambda key: store.update_permissions(key, {"read": ["me"]}),
        ):
            with pytest.raises(AuthorizationError):
                call("k")
            with pytest.raises(KeyError, match="'no'"):
                call("no")


@pytest.mark.parametrize(
    ("permissions", "error"),
    [
        ({}, ValueError),
        ({"owned": []}, ValueError),
        ({"read": ["me"]}, ValueError),
        (None, TypeError),
        ([("owned", ["me"])], TypeError),
        ({"owned": "me"}, TypeError),
        ({"owned": None}, TypeError),
        ({"owned": [5]}, TypeError),
        ({"owned": ["me"], 5: []}, TypeError),
    ],
)
def test_bad_permissions(store, application, permissions, error):
    put(store, "k")
    application.log.clear()
    with pytest.raises(error):
        store.set_permissions("k", permissions)
    if error is TypeError:
        with pytest.raises(error):
            store.update_permissions("k", permissions)
    assert application.log == []


def test_a_store_that_has_no_permissions_says_so(store):
    put(store, "k")
    for call in (
        lambda: store.get_permissions("k"),
        lambda: store.get("k").permissions,
        lambda: store.set_permissions("k", {"owned": ["me"]}),
    ):
        with pytest.raises(AuthorizationError, match="no permissions"):
            call()


@pytest.mark.parametrize("text", [b"", b"[]", b'{"owned": "me"}', b'{"owned": [5]}'])
def test_permissions_that_are_none(store, application, text):
    application.instead = lambda environ: (200, [], text)
    with pytest.raises(StoreError):
        store.get_permissions("k")


# Life


def test_after_disconnect_everything_fails_clearly(store):
    put(store, "small", b"x")
    put(store, "k", LARGE)
    value, small = store.get("k"), store.get("small")
    walk = store.query()
    store.disconnect()
    assert small.data.read() == b"x"
    for call in (
        lambda: value.data,
        lambda: value.range(1, 2),
        lambda: small.permissions,
        lambda: store.get("k"),
        lambda: store.get_data("k"),
        lambda: store.get_data_range("k", 0, 1),
        lambda: store.get_permissions("k"),
        lambda: store.set_permissions("k", {"owned": ["me"]}),
        lambda: store.query(),
        lambda: store.transaction(),
        lambda: store.user_tag,
    ):
        with pytest.raises(StoreError, match="not connected"):
            call()
    store.connect()
    # A value is of the store, not of the connection.
    assert value.data.read() == LARGE
    assert len(list(walk)) == 2


def test_a_failed_connect_leaves_nothing(application):
    application.instead = lambda environ: (503, [], b"")
    store = store_on(application, policy=RetryPolicy(1))
    with pytest.raises(TemporaryError):
        store.connect()
    assert not store.is_connected()
    with pytest.raises(StoreError, match="not connected"):
        store.get("k")
    application.instead = None
    with store:
        put(store, "k")


def test_repr_shows_where_it_is_and_no_secret():
    store = DynamicURLStore("http://h/b?token=secret", "http://me:secret@h/q")
    assert repr(store) == "DynamicURLStore('http://h/b?...', 'http://h/q')"


def test_a_copy_has_what_is_no_secret():
    store = DynamicURLStore(
        "http://h/b", "http://h/q", parts={**DynamicURLStore("http://h", "http://h").parts, "data": "d"},
        timeout=5,
    )
    copy = pickle.loads(pickle.dumps(store))
    assert copy._url("k", "data") == "http://h/b/k/d"
    assert copy._timeout == 5
    assert not copy.is_connected()


def test_nothing_is_left_open_by_what_is_given_up(store, application):
    """The connections of iterators and streams that nobody reads to their end."""
    put(store, "k", LARGE)
    stream = store.get_data("k")
    stream.read(1)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)
    walk = store.query()
    next(walk)
    walk.close()


def test_progress_of_a_repetition_goes_on(store, application):
    steps = []

    def listener(event):
        steps.append(event.step)

    store.event_manager.connect(StoreProgressStepEvent, listener)
    lose(application)
    store.set("k", (io.BytesIO(LARGE), {}), 100_000)
    assert steps == [100_000, 200_000, len(LARGE)]


def test_one_event_even_if_an_answer_was_lost(store, application):
    told = []

    def listener(event):
        told.append(type(event))

    store.event_manager.connect(StoreModificationEvent, listener)
    put(store, "k")
    lose(application)
    put(store, "k")
    assert len(told) == 2
    assert told[0] is StoreSetEvent

