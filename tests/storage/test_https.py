"""HTTPS, with certificates that are made here: what is trusted, and what is refused."""

from __future__ import annotations

import io
import os
import pickle
import socket
import ssl
import threading

import pytest
from certificates import Authority

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import AuthorizationError, StoreError, TemporaryError
from encore.storage.retry_policy import RetryPolicy, is_temporary
from encore.storage.server import StoreApplication
from encore.storage.static_url_store import StaticURLStore

PASSWORD = {"username": "alibaba", "password": "sesame"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def right(authority):
    """The context of a server that has nothing to hide."""
    return authority.issue("right")


@pytest.fixture
def served():
    """A function that serves a store with a context; it returns the URL, and has what was asked for."""
    seen = []
    inner = DictMemoryStore(event_manager=EventManager())
    inner.connect()
    inner.set("a", (io.BytesIO(b"0123456789"), {"n": 1}))
    application = StoreApplication(inner, lambda *login: login == tuple(PASSWORD.values()))
    servers = []

    def record(environ, start_response):
        seen.append(environ.get("HTTP_AUTHORIZATION"))
        return application(environ, start_response)

    def serve(context):
        server = Server(record, port=0, ssl_context=context)
        servers.append(server)
        return server.start().url

    serve.seen = seen
    yield serve
    for server in servers:
        server.stop(0)


def dynamic(url, **arguments):
    arguments.setdefault("policy", RetryPolicy(1))
    return DynamicURLStore(f"{url}keys", f"{url}query", **arguments)


def static(url, **arguments):
    return StaticURLStore(url, "data/", "index.json", poll=0, **arguments)


@pytest.fixture(params=[dynamic, static], ids=["dynamic", "static"])
def make_store(request):
    return request.param


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_trusted_server(make_store, served, right, authority, host):
    url = served(right).replace("127.0.0.1", host)
    assert url.startswith("https:")
    store = make_store(url, ssl_context=authority.trusting())
    store.connect(PASSWORD)
    assert store.get_metadata("a") == {"n": 1}
    assert store.to_bytes("a") == b"0123456789"
    assert store.get("a").range(2, 4).read() == b"23"
    store.disconnect()


def test_large_data_both_ways(served, right, authority):
    data = os.urandom(1 << 20) * 3
    store = dynamic(served(right), ssl_context=authority.trusting())
    store.connect(PASSWORD)
    store.set_data("large", io.BytesIO(data))
    with store.get_data("large") as stream:
        assert b"".join(iter(lambda: stream.read(100_000), b"")) == data
    assert store.get("large").range(1_000_000, 2_000_000).read() == data[1_000_000:2_000_000]
    store.disconnect()


@pytest.fixture(scope="module")
def wrong(authority, tmp_path_factory):
    """Contexts of servers that are not to be trusted, and what is to be said of them."""
    other = Authority(tmp_path_factory.mktemp("other"), "other")
    return {
        "expired": (authority.issue("old", ends="20200102000000Z"), "expired"),
        "of another host": (authority.issue("host", "DNS:elsewhere.example"), "127.0.0.1"),
        "self-signed": (authority.self_signed(), "self.signed"),
        "of an unknown authority": (other.issue("unknown"), "unable to get local issuer"),
    }


@pytest.mark.parametrize(
    "fault", ["expired", "of another host", "self-signed", "of an unknown authority"]
)
def test_a_server_that_is_not_trusted(make_store, served, wrong, authority, fault):
    context, text = wrong[fault]
    store = make_store(served(context), ssl_context=authority.trusting())
    with pytest.raises(StoreError, match=f"certificate is refused: .*{text}") as caught:
        store.connect(PASSWORD)
    # It would not be better next time.
    assert not is_temporary(caught.value)
    assert caught.value.happened is False
    assert "sesame" not in str(caught.value)
    assert not store.is_connected()
    # Nothing was sent at all.
    assert served.seen == []


def test_a_server_that_is_exchanged(served, right, wrong, authority):
    # What was trusted once is looked at again with each connection.
    store = dynamic(served(right), ssl_context=authority.trusting())
    store.connect(PASSWORD)
    store.base_url = f"{served(wrong['expired'][0])}keys"
    served.seen.clear()
    with pytest.raises(StoreError, match="expired"):
        store.from_bytes("a", b"secret")
    assert served.seen == []
    store.disconnect()


def test_authorities_of_the_environment(make_store, served, right, authority, monkeypatch):
    url = served(right)
    with pytest.raises(StoreError, match="certificate is refused"):
        make_store(url).connect(PASSWORD)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    store = make_store(url)
    store.connect(PASSWORD)
    assert store.to_bytes("a") == b"0123456789"
    store.disconnect()


def test_a_context_that_asks_for_nothing(make_store, served, wrong):
    # That is for whoever makes it to decide.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    store = make_store(served(wrong["expired"][0]), ssl_context=context)
    store.connect(PASSWORD)
    assert store.to_bytes("a") == b"0123456789"
    store.disconnect()


def test_a_context_stays_behind_when_a_store_is_pickled(make_store, served, right, authority):
    store = make_store(served(right), ssl_context=authority.trusting())
    copy = pickle.loads(pickle.dumps(store))
    with pytest.raises(StoreError, match="certificate is refused"):
        copy.connect(PASSWORD)
    assert served.seen == []


def test_the_wrong_password(make_store, served, right, authority):
    store = make_store(served(right), ssl_context=authority.trusting())
    with pytest.raises(AuthorizationError):
        store.connect({**PASSWORD, "password": "barley"})


def test_http_to_a_port_of_https(make_store, served, right):
    url = served(right).replace("https:", "http:")
    with pytest.raises(StoreError, match="HTTPS"):
        make_store(url).connect(PASSWORD)
    assert served.seen == []


def test_https_to_a_port_of_http(make_store, served, authority):
    url = served(None).replace("http:", "https:")
    with pytest.raises(StoreError, match="plain HTTP") as caught:
        make_store(url, ssl_context=authority.trusting()).connect(PASSWORD)
    assert not is_temporary(caught.value)
    assert served.seen == []


def test_a_server_that_knows_old_versions_only(make_store, served, authority, right):
    context = authority.trusting()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    right.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with pytest.raises(StoreError, match="TLS"):
            make_store(served(right), ssl_context=context).connect(PASSWORD)
    finally:
        right.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED


def test_a_server_that_breaks_off_the_handshake(authority):
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        for _ in range(2):
            sock, _ = listener.accept()
            sock.recv(100)
            sock.close()

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
    policy = RetryPolicy(2, first_delay=0.001)
    with listener, pytest.raises(TemporaryError) as caught:
        dynamic(url, ssl_context=authority.trusting(), policy=policy).connect(PASSWORD)
    assert caught.value.happened is False
    thread.join(30)


def test_redirects_do_not_lead_from_https_to_http_with_a_password(served, right, authority):
    plain = served(None)

    def redirect(environ, start_response):
        start_response("302 Found", [("Location", plain + "index.json"), ("Content-Length", "0")])
        return []

    with Server(redirect, port=0, ssl_context=right) as server:
        store = static(server.url, ssl_context=authority.trusting())
        with pytest.raises(StoreError):
            store.connect(PASSWORD)
    assert set(served.seen) <= {None}
