"""requests.Session as what sends the requests of a DynamicURLStore."""

from __future__ import annotations

import io
import unittest

import pytest
from certificates import Authority
from digest_gate import DigestGate
from odd_keys import KEYS
from store_kits import DictKit

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import AuthorizationError, PreconditionError, StoreError
from encore.storage.retry_policy import RetryPolicy, is_temporary
from encore.storage.server import StoreApplication
from encore.testing.conformance import StoreConformance

requests = pytest.importorskip("requests", reason="requests is not installed")


@pytest.fixture
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def inner():
    store = DictMemoryStore(event_manager=EventManager())
    store.connect()
    store.set("a", (io.BytesIO(b"0123456789"), {"n": 1}))
    return store


@pytest.fixture
def serve():
    """A function that runs an application, and returns its URL."""
    servers = []

    def run(application, **options):
        servers.append(Server(application, port=0, **options))
        return servers[-1].start().url

    yield run
    for server in servers:
        server.stop(0)


def connected(url, session):
    store = DynamicURLStore(f"{url}keys", f"{url}query", policy=RetryPolicy(1))
    store.connect(("me", session))
    return store


class Chunks:
    """A stream that has nothing but read()."""

    def __init__(self, size):
        self.left = size

    def read(self, size):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def test_odd_keys(session, inner, serve):
    store = connected(serve(StoreApplication(inner)), session)
    for key in KEYS:
        store.set(key, (io.BytesIO(key.encode()), {"key": key}))
    assert set(inner.query_keys()) == {*KEYS, "a"}
    for key in KEYS:
        assert inner.to_bytes(key) == store.to_bytes(key) == key.encode()


# Passwords


def test_basic(session, inner, serve):
    application = StoreApplication(inner, lambda *login: login == ("alibaba", "s\u00e9same"))
    url = serve(application)
    for auth in (None, ("alibaba", "barley"), ("cassim", "s\u00e9same")):
        session.auth = auth
        with pytest.raises(AuthorizationError) as caught:
            connected(url, session)
        assert "same" not in str(caught.value)
    # It takes a str as Latin-1.
    session.auth = ("alibaba", "s\u00e9same".encode())
    store = connected(url, session)
    store.set_data("b", Chunks(200_000))
    assert store.get("b").size == 200_000
    session.auth = ("alibaba", "barley")
    with pytest.raises(AuthorizationError):
        store.to_bytes("a")
    with pytest.raises(AuthorizationError):
        store.delete("a")
    assert inner.exists("a")


def digest_of_requests(session):
    session.auth = requests.auth.HTTPDigestAuth("alibaba", "sesame")
    return "me", session


def digest_of_ours(session):
    return {"username": "alibaba", "password": "sesame"}


@pytest.mark.parametrize("credentials", [digest_of_requests, digest_of_ours])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
def test_digest(session, inner, serve, credentials, algorithm):
    # After three requests the server wants to see the password anew: that comes in all of them.
    gate = DigestGate(StoreApplication(inner), algorithm, uses=3)
    gate.realm = "friends"
    url = serve(gate)
    store = DynamicURLStore(f"{url}keys", f"{url}query", policy=RetryPolicy(1))
    with pytest.raises(AuthorizationError):
        store.connect()
    store.connect(credentials(session))
    for number in range(5, 10):
        key = f"a/../{number}?"
        store.set(key, (io.BytesIO(b"data"), {"n": number}))
        assert store.get(key).metadata == {"n": number}
        assert list(store.query_keys(n=number)) == [key]
        store.set_data(key, io.BytesIO(bytes(100_000)))
        assert store.get(key).range(5, 10).read() == bytes(5)
        store.delete(key)
    assert gate.refused > 5
    store.disconnect()


def test_digest_of_a_stream(session, inner, serve, tmp_path):
    # What was sent with a nonce that is too old is sent again, if it can be.
    gate = DigestGate(StoreApplication(inner), uses=1)
    gate.realm = "friends"
    store = connected(serve(gate), digest_of_requests(session)[1])
    path = tmp_path / "data"
    path.write_bytes(bytes(300_000))
    store.from_file("b", path)
    assert inner.get("b").size == 300_000
    with pytest.raises(StoreError):
        store.set_data("c", Chunks(300_000))
    assert not inner.exists("c")


def test_the_realm_of_a_digest_may_be_any_text(inner, serve):
    # Not for requests, which takes it for Latin-1.
    gate = DigestGate(StoreApplication(inner))
    assert not gate.realm.isascii()
    url = serve(gate)
    store = DynamicURLStore(f"{url}keys", f"{url}query")
    store.connect(digest_of_ours(None))
    assert store.to_bytes("a") == b"0123456789"
    store.disconnect()


# Redirects


class Moved:
    """Sends all whose path begins with ``/old`` elsewhere."""

    def __init__(self, application, status, where=""):
        self.application = application
        self.status = status
        self.where = where
        self.seen = []

    def __call__(self, environ, start_response):
        target = environ["REQUEST_URI"]
        self.seen.append((environ["REQUEST_METHOD"], target, environ.get("HTTP_AUTHORIZATION")))
        if not target.startswith("/old"):
            return self.application(environ, start_response)
        start_response(
            f"{self.status} Moved",
            [("Location", self.where + target.removeprefix("/old")), ("Content-Length", "0")],
        )
        return []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_what_is_read_is_redirected(session, inner, serve, status):
    inner.from_bytes("a/../%2E", b"odd")
    store = connected(serve(Moved(StoreApplication(inner), status)) + "old/", session)
    assert store.to_bytes("a") == b"0123456789"
    assert store.get("a").range(2, 4).read() == b"23"
    assert store.get("a").metadata == {"n": 1}
    assert store.exists("a")


@pytest.mark.parametrize("status", [307, 308])
def test_what_is_written_is_redirected_as_it_is(session, inner, serve, status):
    store = connected(serve(Moved(StoreApplication(inner), status)) + "old/", session)
    store.set("b", (io.BytesIO(b"data"), {"n": 2}))
    assert (inner.to_bytes("b"), inner.get_metadata("b")) == (b"data", {"n": 2})
    store.set_data("b", io.BytesIO(bytes(100_000)))
    assert inner.get("b").size == 100_000
    store.delete("b")
    assert not inner.exists("b")


@pytest.mark.parametrize("status", [301, 302, 303])
def test_what_is_written_is_not_redirected_otherwise(session, inner, serve, status):
    # It would become a GET.
    store = connected(serve(Moved(StoreApplication(inner), status)) + "old/", session)
    for write in (
        lambda: store.set("b", (io.BytesIO(b"data"), {})),
        lambda: store.set_metadata("a", {}),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreError, match=str(status)):
            write()
    assert list(inner.query()) == [("a", {"n": 1})]


def test_a_session_takes_no_password_to_another_host(session, inner, serve):
    there = Moved(StoreApplication(inner), 302)
    other = serve(there).replace("127.0.0.1", "localhost")
    here = serve(Moved(StoreApplication(inner), 302, other.rstrip("/")))
    session.auth = ("alibaba", "sesame")
    store = connected(f"{here}old/", session)
    store.to_bytes("a")
    assert there.seen
    assert {sent for _, _, sent in there.seen} == {None}
    with pytest.raises(StoreError):
        store.from_bytes("b", b"secret")
    assert not inner.exists("b")


# Proxies


def test_proxies_of_the_environment(session, inner, serve, monkeypatch):
    with Server(StoreApplication(inner), port=0) as gone:
        pass
    seen = []
    application = StoreApplication(inner)

    def proxy(environ, start_response):
        seen.append((environ["REQUEST_URI"], environ["HTTP_HOST"]))
        return application(environ, start_response)

    direct = serve(application)
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", gone.url)
    assert connected(direct, session).to_bytes("a") == b"0123456789"
    session.trust_env = True
    with pytest.raises(StoreError) as caught:
        connected(direct, session)
    assert is_temporary(caught.value)
    monkeypatch.setenv("http_proxy", serve(proxy))
    inner.from_bytes("a/../%2E", b"odd")
    store = connected("http://store.invalid/", session)
    assert store.to_bytes("a/../%2E") == b"odd"
    assert seen[-1] == ("http://store.invalid/keys/a%2F%2E%2E%2F%252E/value", "store.invalid")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    del seen[:]
    assert connected(direct, session).to_bytes("a") == b"0123456789"
    assert seen == []


# TLS


def test_https(session, inner, serve, tmp_path):
    authority = Authority(tmp_path)
    application = StoreApplication(inner)
    good = serve(application, ssl_context=authority.issue("good"))
    with pytest.raises(StoreError) as caught:
        connected(good, session)
    assert not is_temporary(caught.value)
    session.verify = str(authority.path)
    store = connected(good, session)
    store.from_bytes("b/../c", b"data")
    assert store.to_bytes("b/../c") == b"data"
    old = serve(application, ssl_context=authority.issue("old", ends="20200102000000Z"))
    with pytest.raises(StoreError):
        connected(old, session)


def test_cookies_and_headers_of_a_session_are_sent(session, inner, serve):
    application = StoreApplication(inner)
    seen = []

    def record(environ, start_response):
        seen.append((environ.get("HTTP_COOKIE"), environ.get("HTTP_X_TOKEN")))
        return application(environ, start_response)

    session.cookies.set("user", "alibaba")
    session.headers["X-Token"] = "t"
    store = connected(serve(record), session)
    store.from_bytes("b", b"data")
    with pytest.raises(PreconditionError):
        store.set_data("b", io.BytesIO(), if_none_match="*")
    assert set(seen) == {("user=alibaba", "t")}


def test_parameters_of_a_session_stay_with_the_url(session, inner, serve):
    application = StoreApplication(inner)
    seen = []

    def record(environ, start_response):
        seen.append(environ["REQUEST_URI"])
        return application(environ, start_response)

    session.params = {"token": "t"}
    store = connected(serve(record), session)
    store.from_bytes("a/../b", b"data")
    assert seen[-1] == "/keys/a%2F%2E%2E%2Fb/data?token=t"


# The kit


class SessionStore(DynamicURLStore):
    """A store that is connected by a session."""

    def connect(self, credentials=None):
        session = requests.Session()
        session.trust_env = False
        self.sessions = [session]
        super().connect(("me", session))

    def disconnect(self):
        super().disconnect()
        for session in vars(self).pop("sessions", ()):
            session.close()


@pytest.mark.slow
class TestConformance(DictKit, unittest.TestCase):
    failing_commit = StoreConformance.failing_commit

    def make_store(self, event_manager):
        inner = super().make_store(EventManager())
        inner.connect()
        server = Server(StoreApplication(inner), port=0).start()
        self.addCleanup(server.stop, 0)
        url = server.url
        return SessionStore(f"{url}keys", f"{url}query", event_manager=event_manager)

    def make_handle(self, store):
        return SessionStore(store.base_url, store.query_url)

    def process_store(self, store):
        return None

    def test_pickling(self):
        self.skipTest("two handles, but no two processes, share it")

    def make_relative_store(self, event_manager):
        return None
