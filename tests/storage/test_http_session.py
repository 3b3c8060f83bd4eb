"""Sessions of the caller's as what sends requests."""

from __future__ import annotations

import io
import json
import socket
import ssl
import threading
from types import SimpleNamespace
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import pytest
from wsgi_client import WSGIClient

from encore.events.event_manager import EventManager
from encore.storage._http_requests import Source
from encore.storage._http_server import Server
from encore.storage._http_session import SessionTransport, _with_path_of, error_of
from encore.storage._request_body import RequestBody
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import AuthorizationError, StoreError, TemporaryError
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication

ODD = ["a", "a b", ".", "..", "a/../b", "./a", "a//b", "/a/", "a%2Fb", "%2e%2E", "\u00e9/\u20ac?#"]


def served(**arguments):
    inner = DictMemoryStore(event_manager=EventManager())
    inner.connect()
    return inner, StoreApplication(inner, **arguments)


def answer_to(client, method, url, data, headers):
    """Return what looks like the Response of requests."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    more = {}
    if data is not None and not isinstance(data, bytes):
        data = b"".join(data)
    if method in ("PUT", "POST"):
        more["CONTENT_LENGTH"] = str(len(data or b""))
    answer = client(method, target, data or b"", headers, **more)
    body = b"" if method == "HEAD" else answer.body
    return SimpleNamespace(
        status_code=answer.status,
        headers=dict(answer.all_headers),
        raw=io.BytesIO(body),
        content=body,
        url=url,
        close=lambda: None,
    )


class Requesting:
    """A session that has a request() and nothing else."""

    def __init__(self, application):
        self.client = WSGIClient(application)
        self.calls = []

    def request(self, method, url, **options):
        self.calls.append((method, url, options))
        return answer_to(self.client, method, url, options["data"], options["headers"])


class Preparing(Requesting):
    """One that takes URLs apart, as requests does; those that come to send() it takes as they are."""

    def prepare_request(self, request):
        assert request.params == {}
        url = request.url.replace("%2E", ".").replace("%2e", ".")
        return SimpleNamespace(
            method=request.method, url=f"{url}?token=1", body=request.data, headers=request.headers
        )

    def merge_environment_settings(self, url, proxies, stream, verify, cert):
        return {"proxies": {"http": "p"}, "stream": stream, "verify": "ca", "cert": cert}

    def send(self, prepared, **options):
        self.calls.append((prepared.method, prepared.url, options))
        return answer_to(
            self.client, prepared.method, prepared.url, prepared.body, prepared.headers
        )


class WithToken(Preparing):
    """A subclass that adds something in request()."""

    tokens = 0

    def request(self, method, url, **options):
        self.tokens += 1
        return super().request(method, url, **options)


def store_of(session):
    store = DynamicURLStore("http://h/keys", "http://h/query", event_manager=EventManager())
    store.connect(("me", session))
    return store


@pytest.mark.parametrize("kind", [Requesting, Preparing, WithToken])
def test_any_key_survives_the_trip(kind):
    inner, application = served()
    session = kind(application)
    store = store_of(session)
    assert store.user_tag == "me"
    for key in ODD:
        store.set(key, (io.BytesIO(key.encode()), {"key": key}))
    assert sorted(inner.query_keys()) == sorted(ODD) == sorted(store.query_keys())
    for key in ODD:
        assert store.get(key).metadata == {"key": key}
        assert store.to_bytes(key) == key.encode()
        store.delete(key)
    assert list(inner.query_keys()) == []


def test_a_prepared_url_is_put_back_with_what_was_added_to_it():
    _, application = served()
    session = Preparing(application)
    store = store_of(session)
    store.set_metadata("a/..", {})
    assert session.calls[-1] == (
        "PUT",
        "http://h/keys/a%2F%2E%2E/metadata?token=1",
        {
            "proxies": {"http": "p"},
            "verify": "ca",
            "cert": None,
            "stream": True,
            "timeout": pytest.approx(30, abs=1),
            "allow_redirects": False,
        },
    )
    store.exists("a")
    assert session.calls[-1][2]["allow_redirects"] is True


@pytest.mark.parametrize(
    ("url", "prepared", "sent"),
    [
        ("http://h/a%2E/b", "http://h/a./b?x=1", "http://h/a%2E/b?x=1"),
        ("http://h/a/%2E%2E/b", "http://h/b", "http://h/a/%2E%2E/b"),
        ("/keys/a", "https://h/api/keys/a", "https://h/api/keys/a"),
        ("/keys/%2E", "https://h/api/keys/.", "https://h/api/keys/."),
        ("/keys/a/%2E%2E", "https://h/api/keys", None),
    ],
)
def test_which_urls_are_put_back(url, prepared, sent):
    if sent is None:
        with pytest.raises(StoreError, match="another path"):
            _with_path_of(url, prepared)
    else:
        assert _with_path_of(url, prepared) == sent


def test_a_request_method_of_its_own_is_not_passed_by():
    _, application = served()
    session = WithToken(application)
    store_of(session).exists("a")
    assert session.tokens == len(session.calls) == 2
    assert session.calls[-1][0] == "HEAD"
    assert session.calls[-1][2]["stream"] is True


class Simple:
    """Only the methods that EnCore 0.8 called; it keeps how."""

    def __init__(self):
        self.calls = []

    def answer(self, content=b"{}", status=200):
        return SimpleNamespace(
            status_code=status,
            content=content,
            raw=io.BytesIO(content),
            headers={"Content-Length": str(len(content))},
        )

    def get(self, url, params=None, stream=False, headers=None):
        self.calls.append(("get", url, params, stream, headers))
        return self.answer(b"k1\nk\r2\n" if url.endswith("q") else b'{"a": 1}')

    def put(self, url, data=None):
        self.calls.append(("put", url, data if isinstance(data, str) else data.read()))
        return self.answer()

    def post(self, url, data=None):
        self.calls.append(("post", url, data))
        return self.answer()

    def head(self, url):
        self.calls.append(("head", url))
        return self.answer()

    def delete(self, url):
        self.calls.append(("delete", url))
        return self.answer()


def calls_of(act):
    """Return how a session was called."""
    session = Simple()
    store = DynamicURLStore("http://h/b", "http://h/q", event_manager=EventManager())
    store.connect(("me", session))
    assert session.calls == []
    act(store)
    return session.calls


DATA, METADATA = "http://h/b/k/data", "http://h/b/k/metadata"
PLAIN = {"Accept-Encoding": "identity"}


@pytest.mark.parametrize(
    ("act", "calls"),
    [
        (lambda s: s.exists("k"), [("head", DATA)]),
        (lambda s: s.get_data("k"), [("get", DATA, None, True, PLAIN)]),
        (lambda s: s.get_metadata("k"), [("get", METADATA, None, False, None)]),
        (lambda s: s.set_data("k", io.BytesIO(b"x")), [("put", DATA, b"x")]),
        (lambda s: s.set_data("k", io.BytesIO(bytes(99_999))), [("put", DATA, bytes(99_999))]),
        (lambda s: s.set_metadata("k", {"a": 1}), [("put", METADATA, '{"a": 1}')]),
        (lambda s: s.update_metadata("k", {"a": 1}), [("post", METADATA, '{"a": 1}')]),
        (lambda s: s.delete("k"), [("delete", "http://h/b/k")]),
        (lambda s: list(s.query_keys()), [("get", "http://h/q", None, False, None)]),
        (
            lambda s: list(s.query_keys(a=1, b="x y", c=[None])),
            [("get", "http://h/q", {"a": "1", "b": '"x y"', "c": "[null]"}, False, None)],
        ),
        (
            lambda s: s.set_permissions("k", {"owned": {"you", "me"}}),
            [("put", "http://h/b/k/auth", '{"owned": ["me", "you"]}')],
        ),
        (
            lambda s: s.update_permissions("k", {"read": ("you",)}),
            [("post", "http://h/b/k/auth", '{"read": ["you"]}')],
        ),
    ],
)
def test_a_simple_session_is_called_as_by_08(act, calls):
    assert calls_of(act) == calls


def test_keys_are_text_and_end_at_line_feeds_only():
    found = []
    calls_of(lambda store: found.extend(store.query_keys()))
    assert found == ["k1", "k\r2"]


def test_a_mock_is_a_simple_session():
    session = MagicMock()
    session.get.return_value = SimpleNamespace(
        status_code=200, content=b"{}", headers={}, iter_content=lambda size: iter([b"{}"])
    )
    assert SessionTransport(session).is_simple
    store = DynamicURLStore("http://h/b", "http://h/q", event_manager=EventManager())
    store.connect(("me", session))
    assert store.get_metadata("k") == {}
    session.close.assert_not_called()


def test_no_session_is_ever_closed():
    _, application = served()
    session = Requesting(application)
    session.close = pytest.fail
    store = store_of(session)
    store.disconnect()
    store.connect(("me", session))
    store.disconnect()


# Answers


def transport(answer):
    class Session:
        def request(self, method, url, **options):
            if isinstance(answer, Exception):
                raise answer
            return answer

    return SessionTransport(Session())


def test_a_short_body_is_an_error():
    answer = SimpleNamespace(
        status_code=200, headers={"Content-Length": "5"}, raw=io.BytesIO(b"1234")
    )
    response = transport(answer).send("GET", "http://h/", {}, None, 1)
    with pytest.raises(TemporaryError, match="1 bytes too early"):
        response.read()


def test_a_coded_body_is_read_as_the_session_decodes_it():
    answer = SimpleNamespace(
        status_code=200,
        headers={"Content-Length": "5", "Content-Encoding": "gzip"},
        raw=io.BytesIO(b"coded"),
        iter_content=lambda size: iter([b"decoded ", b"data"]),
    )
    response = transport(answer).send("GET", "http://h/", {}, None, 1)
    assert response.size is None
    assert response.read() == b"decoded data"


def test_what_breaks_while_reading_is_temporary():
    class Raw:
        def read(self, size):
            raise ConnectionResetError(104, "reset")

    answer = SimpleNamespace(status_code=200, headers={}, raw=Raw())
    response = transport(answer).send("GET", "http://h/", {}, None, 1)
    with pytest.raises(TemporaryError) as caught:
        response.read()
    assert caught.value.happened is None


def test_nothing_goes_to_another_host_by_a_session():
    with pytest.raises(StoreError, match="another host"):
        transport(None).send("GET", "http://h/", {}, None, 1, foreign=True)


# Errors


def made(*names, base=OSError):
    """Return an exception whose classes have these names."""
    kind = base
    for name in reversed(names):
        kind = type(name, (kind,), {})
    return kind


@pytest.mark.parametrize(
    ("error", "kind", "happened"),
    [
        (made("ConnectionError", "RequestException")("x"), TemporaryError, None),
        (made("ReadTimeout", "Timeout", "RequestException")("x"), TemporaryError, None),
        (made("ConnectTimeout", "ConnectionError")("x"), TemporaryError, False),
        (made("ChunkedEncodingError", "RequestException")("x"), TemporaryError, None),
        (made("SSLError", "ConnectionError")("x"), StoreError, None),
        (made("InvalidURL", "RequestException", base=ValueError)("x"), StoreError, None),
        (made("TooManyRedirects", "RequestException")("x"), StoreError, None),
        (
            made("ConnectionError")(made("MaxRetryError")(made("NewConnectionError")("x"))),
            TemporaryError,
            False,
        ),
        (made("ConnectionError")(ConnectionRefusedError(111, "no")), TemporaryError, False),
        (RuntimeError("http://me:secret@h/"), StoreError, None),
        (ConnectionResetError(104, "reset"), TemporaryError, None),
        (TimeoutError(), TemporaryError, None),
    ],
)
def test_errors_are_told_apart_by_what_they_are_made_of(error, kind, happened):
    with pytest.raises(StoreError) as caught:
        transport(error).send("GET", "http://me:secret@h/?secret", {}, None, 1)
    assert type(caught.value) is kind
    assert getattr(caught.value, "happened", None) is happened
    assert caught.value.__cause__ is error
    assert "secret" not in str(caught.value)


def test_what_an_error_came_in_the_middle_of_says_nothing():
    error = TimeoutError()
    error.__context__ = ConnectionRefusedError(111, "somebody else's")
    assert error_of(error, "http://h/").happened is None


class NewConnectionError(Exception):
    pass


def reset():
    # As urllib3 does.
    return Exception("Connection aborted.", ConnectionResetError(104, "Connection reset by peer"))


def refused():
    error = OSError("http://me:secret@h/: no connection")
    error.reason = NewConnectionError("http://me:secret@h/")
    error.reason.__cause__ = ConnectionRefusedError(111, "Connection refused")
    return error


def untrusted():
    error = ssl.SSLCertVerificationError(1, "http://me:secret@h/")
    error.verify_message = "self-signed certificate"
    return Exception("http://me:secret@h/", error)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (reset, "Exception: Connection reset by peer"),
        (refused, "OSError: Connection refused"),
        (untrusted, "Exception: the certificate is refused: self-signed certificate"),
        (lambda: Exception(TimeoutError("secret")), "Exception: timed out"),
        (lambda: Exception(NewConnectionError("secret")), "Exception: NewConnectionError"),
    ],
)
def test_the_innermost_reason_is_told(make, text):
    found = str(error_of(make(), "http://me:secret@h/?secret"))
    assert text in found
    assert found.startswith("http://h/?...: ")
    assert "secret" not in found


def test_an_error_that_holds_itself():
    error = OSError("x")
    error.reason = error
    assert type(error_of(error, "http://h/")) is StoreError


# requests itself


@pytest.fixture
def session():
    requests = pytest.importorskip("requests", reason="requests is not installed")
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def start():
    """A function that serves an application, and returns the store of it that uses a session."""
    servers, stores = [], []

    def serve(application, session):
        server = Server(application, "127.0.0.1", 0).start()
        servers.append(server)
        store = DynamicURLStore(
            f"{server.url}keys", f"{server.url}query", event_manager=EventManager()
        )
        stores.append(store)
        store.connect(("me", session))
        return store

    yield serve
    for store in stores:
        store.disconnect()
    for server in servers:
        server.stop(0)


def test_any_key_survives_a_trip_by_requests(session, start):
    inner, application = served()
    store = start(application, session)
    for key in ODD:
        store.set(key, (io.BytesIO(key.encode()), {"key": key}))
    assert sorted(inner.query_keys()) == sorted(ODD) == sorted(store.query_keys())
    for key in ODD:
        assert store.get(key).metadata == {"key": key}
        store.delete(key)
    assert list(inner.query_keys()) == []


def test_streams_by_requests(session, start, tmp_path):
    class Stream:
        def __init__(self, data):
            self.data = data

        def read(self, size):
            piece, self.data = self.data[:size], self.data[size:]
            return piece

    data = bytes(range(256)) * 2000
    path = tmp_path / "file"
    path.write_bytes(data)
    inner, application = served()
    seen = []

    def noting(environ, start_response):
        seen.append((environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING")))
        return application(environ, start_response)

    store = start(noting, session)
    writes = [
        (lambda: store.set("k", (Stream(data), {"a": 1})), (None, "chunked")),
        (lambda: store.set_data("k", Stream(data)), (None, "chunked")),
        (lambda: store.from_file("k", path), (str(len(data)), None)),
        (lambda: store.set_data("k", io.BytesIO(data)), (str(len(data)), None)),
        (lambda: store.set("k2", inner.get("k")), (str(len(data) + 7), None)),
        (lambda: store.set_data("empty", io.BytesIO()), ("0", None)),
    ]
    for write, expected in writes:
        write()
        assert seen[-1] in (expected, (expected[0] or "", expected[1]))
        assert inner.to_bytes("k") == data
    assert store.to_bytes("k") == data
    with store.get_data_range("k", -10) as stream:
        assert stream.read() == data[-10:]
    assert store.get("k2").range(5, 9).read() == data[5:9]
    assert inner.to_bytes("empty") == b""


def test_what_a_stream_raises_passes_through_requests(session, start):
    class Failing:
        def __init__(self, error):
            self.left = 3
            self.error = error

        def read(self, size):
            self.left -= 1
            if self.left:
                return bytes(60_000)
            raise self.error

    inner, application = served()
    inner.from_bytes("k", b"old")
    store = start(application, session)
    for error in (OSError(5, "mine"), ValueError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            store.set("k", (Failing(error), {}))
        assert caught.value is error
    assert store.to_bytes("k") == b"old"


def test_a_repetition_of_the_session_does_not_send_a_part(session):
    """urllib3 sends bodies again by itself where it is told to."""
    from requests.adapters import HTTPAdapter
    from urllib3.util.retry import Retry

    session.mount("http://", HTTPAdapter(max_retries=Retry(3, read=3, backoff_factor=0)))
    bodies = []

    class Stream:
        left = 3

        def read(self, size):
            self.left -= 1
            return bytes(50_000) if self.left >= 0 else b""

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        port = listener.getsockname()[1]

        def break_off():
            for _ in range(4):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(10)
                    head = b""
                    while b"\r\n\r\n" not in head and (piece := connection.recv(65536)):
                        head += piece
                    bodies.append(head)

        thread = threading.Thread(target=break_off, daemon=True)
        thread.start()
        transport = SessionTransport(session)
        body = RequestBody(Stream(), None, 50_000)
        with pytest.raises(StoreError):
            transport.send("PUT", f"http://127.0.0.1:{port}/", {}, Source(body), 5)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()
    assert len(bodies) == 1


def test_refusals_by_requests_are_store_errors(session, start):
    _, application = served(authenticate=lambda name, password: password == "right")
    with pytest.raises(AuthorizationError):
        start(application, session)
    session.auth = ("me", "right")
    store = start(application, session)
    store.from_bytes("k", b"data")
    with pytest.raises(KeyError):
        store.get("no")


def test_a_server_that_is_gone(session):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    policy = RetryPolicy(first_delay=0)
    store = DynamicURLStore(f"{url}/keys", f"{url}/query", policy=policy)
    with pytest.raises(TemporaryError) as caught:
        store.connect(("me", session))
    assert caught.value.happened is False
    assert not store.is_connected()


def test_what_is_written_is_not_redirected_by_a_session(session, start):
    def elsewhere(environ, start_response):
        if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            start_response("302 Found", [("Location", "/other"), ("Content-Length", "0")])
            return []
        start_response("405 No", [("Content-Length", "0")])
        return []

    store = start(elsewhere, session)
    with pytest.raises(StoreError, match="302"):
        store.set_data("k", io.BytesIO(b"x"))


def test_connections_are_not_shared_with_a_child(session, start, in_a_fork):
    inner, application = served()
    inner.from_bytes("k", b"data")
    ports = []

    def noting(environ, start_response):
        ports.append(environ["REMOTE_PORT"])
        return application(environ, start_response)

    store = start(noting, session)
    assert store.to_bytes("k") == b"data"
    assert len(set(ports)) == 1
    assert in_a_fork(lambda: [store.to_bytes("k") for _ in range(3)]) == repr([b"data"] * 3)
    assert len(set(ports)) == 2
    assert store.to_bytes("k") == b"data"
    assert ports[-1] == ports[0]


def test_json_of_answers_is_read_as_text():
    _, application = served()
    store = store_of(Requesting(application))
    store.set_metadata("k", {"\u00e9": "\u20ac"})
    assert json.loads(json.dumps(store.get_metadata("k"))) == {"\u00e9": "\u20ac"}
