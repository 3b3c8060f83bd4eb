"""DynamicURLStore with a server of ours; what the conformance kit does not look at."""

from __future__ import annotations

import io
import json
import pickle
import ssl
from types import MappingProxyType

import pytest
from application_transport import APPLICATIONS, store_on
from watched_application import WatchedApplication

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.abstract_store import AbstractAuthorizingStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import (
    AuthorizationError,
    StoreError,
    TemporaryError,
)
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication
from encore.storage.string_value import StringValue
from encore.storage.wrapper_store import WrapperStore

LARGE = bytes(range(256)) * 1000


@pytest.fixture
def inner():
    with DictMemoryStore(event_manager=EventManager()) as store:
        yield store


@pytest.fixture
def application(inner):
    return WatchedApplication(StoreApplication(inner))


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
    store = DynamicURLStore(
        "http://h/b/", "http://h/q", "{base}{part}/{key}", "{base}x/{key}", parts
    )
    assert store._url("k/l", "metadata") == "http://h/b/m/k/l"
    assert store._url("k") == "http://h/b/x/k"
    assert store._url("k", "value") == "http://h/b/value/k"
    assert dict(parts) == {"data": "d", "metadata": "m", "permissions": "p"}
    assert DynamicURLStore("http://h/b/", "http://h/q")._url("k") == "http://h/b/k"


def test_a_key_in_the_query_of_a_url_separates_nothing():
    store = DynamicURLStore("http://h/b", "http://h/q", "{base}?part={part}&key={key}&x=1")
    assert store._url("a&b=/+", "data") == "http://h/b?part=data&key=a%26b%3D%2F%2B&x=1"


def test_urls_are_sent_in_ascii():
    store = DynamicURLStore("http://b\u00fccher/\u00e9 x", "http://h/q")
    assert store._sent_url("k", "data") == "http://xn--bcher-kva/%C3%A9%20x/k/data"


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
        (("http://h/\r\nX: y", "http://h/"), {}, ValueError),
        (("http://h/", "http://h/", "{base}/{key}/{part}\n"), {}, ValueError),
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
        _ = store.user_tag
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
    store = DynamicURLStore(
        "https://h/keys", "https://h/query", ssl_context=ssl.create_default_context()
    )
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
    application = WatchedApplication(None)
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
        # Some frameworks answer so by themselves.
        (200, "text/html", b""),
        (200, "text/plain", b""),
        (204, "text/plain", b""),
        (405, "text/plain", b""),
        # One that wants to know the names of criteria.
        (400, "text/html", b"<html>"),
        (422, "application/json", b'{"detail": 1}'),
    ],
)
def test_any_other_answer_is_of_a_classic_server(status, kind, body):
    application = WatchedApplication(None)
    application.instead = lambda environ: (status, [("Content-Type", kind)], body)
    with store_on(application, policy=RetryPolicy(1)) as store:
        assert store.info()["conditional"] is False
        assert store.info()["durable"] == "process"


@pytest.mark.parametrize(
    ("status", "kind", "body", "why"),
    [
        (200, "text/html; charset=utf-8", b"<html>", "HTML"),
        (200, "Text/HTML", b"log in first", "HTML"),
        (200, "application/json", b"{", "JSON"),
        (200, "application/json", b'{"encore": 2}', "JSON"),
        (200, "application/json", b"[1]", "JSON"),
        (200, "application/json", b'{"encore": 1}' + b" " * 200_000, "JSON"),
        (404, "text/plain", b"", "status 404"),
        (405, "text/html", b"", "status 405"),
        (410, "text/plain", b"", "status 410"),
        (501, "text/plain", b"", "status 501"),
    ],
)
def test_what_answers_everything_so_is_no_server_of_a_store(status, kind, body, why):
    application = WatchedApplication(None)
    application.instead = lambda environ: (status, [("Content-Type", kind)], body)
    store = store_on(application, policy=RetryPolicy(1))
    with pytest.raises(StoreError, match=f"/query: this is no server of a store: .*{why}"):
        store.connect()
    assert not store.is_connected()


def test_a_server_of_08_may_answer_options_as_it_likes():
    def answer(environ):
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return 404, [("Content-Type", "text/html")], b"<html>"
        assert environ["QUERY_STRING"] == "token=t&encore.storage.nobody=%22nobody%22"
        return 200, [("Content-Type", "text/plain")], b""

    application = WatchedApplication(None)
    application.instead = answer
    store = store_on(application)
    store.query_url += "?token=t"
    with store:
        assert store.info()["conditional"] is False


@pytest.mark.parametrize("status", [500, 502])
def test_a_failure_for_a_moment_does_not_make_it_a_server_of_08(store, application, status):
    failures = [status]
    application.instead = lambda environ: (failures.pop(), [], b"") if failures else None
    store.disconnect()
    store.connect()
    assert not failures
    assert store.info()["conditional"] is True
    application.instead = lambda environ: (status, [("Content-Type", "text/plain")], b"")
    store.disconnect()
    with pytest.raises(TemporaryError):
        store.connect()


def test_an_answer_of_a_query_that_is_html_has_no_keys():
    application = WatchedApplication(None)
    pages = []

    def answer(environ):
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return 405, [], b""
        return 200, [("Content-Type", "text/html")], pages[0]

    application.instead = answer
    with store_on(application) as store:
        pages[:] = [b"\n<html>\n<p>Log in</p>"]
        with pytest.raises(StoreError, match="HTML"):
            list(store.query_keys())
        # Some frameworks call everything HTML.
        pages[:] = [b"a\nb"]
        assert list(store.query_keys()) == ["a", "b"]


@pytest.mark.parametrize("kind", ["ours", "classic"])
def test_what_is_written_to_nowhere_is_no_key_error(store, application, kind):
    def answer(environ):
        if environ["REQUEST_METHOD"] == "OPTIONS":
            return None if kind == "ours" else (405, [], b"")
        return 404, [], b""

    application.instead = answer
    store.disconnect()
    with store:
        for call, *args in (
            (store.set, ("k"), (io.BytesIO(b"1"), {})),
            (store.set_data, "k", io.BytesIO(b"1")),
            (store.set_metadata, "k", {}),
        ):
            with pytest.raises(StoreError, match=r"/keys/k/.*cannot be written here: status 404"):
                call(*args)
        with pytest.raises(KeyError):
            store.delete("k")
        with pytest.raises(KeyError):
            store.set_permissions("k", {"owned": ["a"]})


@pytest.mark.parametrize(
    ("base", "query", "text"),
    [
        ("/keys/keys", "/keys/query", "the root of this server is http://{host}/,"),
        ("/x/keys", "/x/query", "the root of this server is http://{host}/,"),
        ("/keys", "/keys", "query_url of this server is http://{host}/query"),
        ("/keys", "/", "query_url of this server is http://{host}/query"),
        ("", "/query", "base_url of this server is http://{host}/keys"),
        ("/store", "/query", "base_url of this server is http://{host}/keys"),
    ],
)
def test_our_server_says_where_keys_and_query_are(application, base, query, text):
    store = store_on(application)
    host = store.base_url.split("/")[2]
    store.base_url, store.query_url = f"http://{host}{base}", f"http://{host}{query}"
    with pytest.raises(StoreError) as caught:
        store.connect()
    assert text.format(host=host) in str(caught.value)
    assert "str:" not in str(caught.value)


def test_keys_may_be_somewhere_else_behind_a_proxy(application):
    inner = application.application

    def renaming(environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith("/store"):
            environ["PATH_INFO"] = "/keys" + path[6:]
        return inner(environ, start_response)

    store = store_on(renaming)
    store.base_url = store.base_url.removesuffix("/keys") + "/store/"
    with store:
        store.from_bytes("k", b"1")
        assert store.to_bytes("k") == b"1"


def test_a_mistake_in_the_served_store_is_not_tried_again(store, application, inner, monkeypatch):
    def broken(key):
        raise ZeroDivisionError

    monkeypatch.setattr(type(inner), "get", lambda self, key: broken(key))
    application.log.clear()
    with pytest.raises(StoreError, match="something unexpected") as caught:
        store.get("k")
    assert not isinstance(caught.value, TemporaryError)
    assert len(application.log) == 1


@pytest.mark.parametrize("url", ["http://h:0/keys", "http:///keys"])
def test_a_url_that_is_none_is_shown_as_it_is(url):
    store = DynamicURLStore(url, url)
    with pytest.raises(ValueError, match="bad port: 'http:") as caught:
        store.connect()
    assert "str:" not in str(caught.value)


def test_who_has_no_permissions_is_told(store):
    with pytest.raises(AuthorizationError, match="the store behind the server has none"):
        store.get_permissions("k")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AuthorizationError),
        (403, AuthorizationError),
        (503, TemporaryError),
        (429, TemporaryError),
    ],
)
def test_refusals_of_the_moment_or_of_the_user_are_told(status, error):
    application = WatchedApplication(None)
    application.instead = lambda environ: (status, [], b"")
    store = store_on(application, policy=RetryPolicy(2, first_delay=0))
    with pytest.raises(error):
        store.connect()
    assert not store.is_connected()
    assert len(application.log) == (2 if error is TemporaryError else 1)


def test_a_readonly_server_refuses_before_anything_is_read(inner):
    inner.from_bytes("k", b"data")
    application = WatchedApplication(StoreApplication(ReadOnlyStore(inner)))
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
        store.query,
        store.transaction,
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
        "http://h/b",
        "http://h/q",
        parts={**DynamicURLStore("http://h", "http://h").parts, "data": "d"},
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
