"""The application under WSGI servers of others: gunicorn with two processes, and waitress."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import socket
import threading
import unittest
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from odd_keys import KEYS
from peers import DEADLINE, has_memory, most_memory, wsgi_server
from store_kits import DictKit

from encore.events.event_manager import EventManager
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import PreconditionError
from encore.storage.filesystem_store import init_shared_store
from encore.storage.server import StoreApplication
from encore.storage.static_url_store import StaticURLStore
from encore.testing.conformance import StoreConformance

pytestmark = pytest.mark.skipif(
    not hasattr(socket.socket, "sendmsg"), reason="the servers inherit sockets"
)


@pytest.fixture(scope="module", params=["gunicorn", "waitress"])
def running(request, tmp_path_factory):
    """A server, with its process and URL."""
    folder = tmp_path_factory.mktemp(request.param)
    root = folder / "store"
    init_shared_store(root)
    with wsgi_server(request.param, folder, f"lockfs:{root}") as (process, url):
        yield SimpleNamespace(name=request.param, process=process, url=url)


@pytest.fixture
def store(running):
    with DynamicURLStore(f"{running.url}keys", f"{running.url}query") as connected:
        for key in list(connected.query_keys()):
            connected.delete(key)
        yield connected


@pytest.fixture
def connection(running):
    """A connection without any knowledge of stores."""
    parts = urlsplit(running.url)
    made = http.client.HTTPConnection(parts.hostname, parts.port, timeout=DEADLINE)
    yield made
    made.close()


def ask(connection, *arguments, **options):
    connection.request(*arguments, **options)
    answer = connection.getresponse()
    answer.content = answer.read()
    return answer


def test_values(store):
    store.set("tale/1", (io.BytesIO(b"Open Sesame"), {"hero": "Alibaba", "\u00e9": [1, None]}))
    value = store.get("tale/1")
    assert value.data.read() == b"Open Sesame"
    assert value.metadata == {"hero": "Alibaba", "\u00e9": [1, None]}
    assert value.size == 11
    assert value.range(5, 8).read() == b"Ses"
    assert store.get_data_range("tale/1", -6, None).read() == b"Sesame"
    store.update_metadata("tale/1", {"hero": "Aladdin"})
    store.set_data("tale/1", io.BytesIO(b"new"))
    assert store.get("tale/1").metadata == {"hero": "Aladdin", "\u00e9": [1, None]}
    assert store.to_bytes("tale/1") == b"new"
    assert list(store.query_keys(hero="Aladdin")) == ["tale/1"]
    store.from_bytes("tale/2", b"")
    assert list(store.keys(prefix="tale/", start_after="tale/1")) == ["tale/2"]
    store.delete("tale/1")
    assert not store.exists("tale/1")
    for call in (store.get, store.get_metadata, store.delete):
        with pytest.raises(KeyError, match="tale/1"):
            call("tale/1")


def test_odd_keys(store):
    for key in KEYS:
        store.set(key, (io.BytesIO(key.encode()), {"key": key}))
    assert list(store.keys()) == sorted(KEYS)
    for key in KEYS:
        value = store.get(key)
        assert (value.data.read(), value.metadata) == (key.encode(), {"key": key})
    for key in KEYS[::2]:
        store.delete(key)
    assert list(store.keys()) == sorted(KEYS[1::2])


def test_conditional_writes(store):
    store.from_bytes("a", b"old")
    etag = store.get("a").etag
    store.set_data("a", io.BytesIO(b"new"), if_match=etag)
    for write in (
        lambda: store.set("a", (io.BytesIO(b"other"), {}), if_match=etag),
        lambda: store.set("a", (io.BytesIO(b"other"), {}), if_none_match="*"),
        lambda: store.update_metadata("a", {"n": 1}, if_match=etag),
        lambda: store.delete("a", if_match=etag),
    ):
        with pytest.raises(PreconditionError):
            write()
    assert (store.to_bytes("a"), store.get_metadata("a")) == (b"new", {})


def test_one_of_several_writers_wins(store):
    barrier = threading.Barrier(6)
    outcomes = []

    def write(number):
        barrier.wait(DEADLINE)
        try:
            store.set("a", (io.BytesIO(b"%d" % number), {}), if_none_match="*")
            outcomes.append(number)
        except PreconditionError:
            outcomes.append(None)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(outcomes) == 6
    (winner,) = (outcome for outcome in outcomes if outcome is not None)
    assert store.to_bytes("a") == b"%d" % winner


class Zeros(io.RawIOBase):
    """A stream that nobody can go back in, and whose size nobody knows."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        buffer[:size] = bytes(size)
        self.left -= size
        return size


@has_memory
def test_large_data_take_little_memory(running, store):
    size = 64 << 20
    store.set_data("warm", Zeros(1 << 20))
    assert store.get("warm").size == 1 << 20
    before = most_memory(running.process.pid)
    store.set("large", (Zeros(size), {"n": 1}))
    assert store.get("large").size == size
    with store.get_data("large") as stream:
        buffer = bytearray(1 << 20)
        assert sum(iter(lambda: stream.readinto(buffer), 0)) == size
    assert store.get_data_range("large", size - 5, None).read() == bytes(5)
    # waitress holds 16 MiB back.
    assert most_memory(running.process.pid) - before < 32 << 20


def test_chunked_upload(connection, store):
    pieces = [b"one ", b"two ", b"x" * 100_000]
    answer = ask(
        connection,
        "PUT",
        "/keys/a/data",
        iter(pieces),
        {"Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    assert answer.status == 201
    assert store.to_bytes("a") == b"".join(pieces)
    answer = ask(
        connection,
        "PUT",
        "/keys/a/data",
        iter([]),
        {"Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    assert (answer.status, json.loads(answer.content)["created"]) == (200, False)
    assert store.to_bytes("a") == b""
    # A new connection is not needed.
    assert ask(connection, "GET", "/keys/a/data").status == 200


@pytest.mark.parametrize(
    "beginning",
    [
        b"Content-Length: 100\r\n\r\nonly this",
        b"Transfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ],
)
def test_a_body_that_is_cut_changes_nothing(running, store, beginning):
    store.from_bytes("a", b"old")
    port = urlsplit(running.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.sendall(b"PUT /keys/a/data HTTP/1.1\r\nHost: localhost\r\n" + beginning)
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert not answer.startswith(b"HTTP/1.1 2")
    assert store.to_bytes("a") == b"old"


def test_what_is_asked_for_first(running, store):
    port = urlsplit(running.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as sock:
        sock.sendall(
            b"PUT /keys/a/data HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\n\r\n"
        )
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 Continue\r\n")
        sock.sendall(b"data")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b"HTTP/1.1 201 Created\r\n" in answer
    assert store.to_bytes("a") == b"data"


def test_head(connection, store):
    store.set("a", (io.BytesIO(b"0123456789"), {"type": "text/plain"}))
    for path in (
        "/keys/a/data",
        "/keys/a/metadata",
        "/keys/a/value",
        "/index.json",
        "/data/a",
        "/about",
    ):
        told = ask(connection, "GET", path)
        answer = ask(connection, "HEAD", path)
        assert (answer.status, answer.content) == (200, b"")
        lengths = answer.getheader("Content-Length"), told.getheader("Content-Length")
        # Of an index nobody knows the size before it is made.
        assert lengths[0] in (lengths[1], None)
        assert answer.getheader("ETag") == told.getheader("ETag")
        assert answer.getheader("Content-Type") == told.getheader("Content-Type")
    assert ask(connection, "HEAD", "/keys/b/data").status == 404
    assert ask(connection, "HEAD", "/keys/a/data").getheader("Content-Length") == "10"


def test_answers_without_a_body(connection, store):
    store.from_bytes("a", b"data")
    etag = ask(connection, "GET", "/keys/a/data").getheader("ETag")
    for _ in range(2):
        answer = ask(connection, "GET", "/keys/a/data", headers={"If-None-Match": etag})
        assert (answer.status, answer.content) == (304, b"")
        answer = ask(connection, "PUT", "/keys/a/data", b"data", {"Prefer": "return=minimal"})
        assert (answer.status, answer.content) == (204, b"")
        etag = ask(connection, "GET", "/keys/a/data").getheader("ETag")
    answer = ask(connection, "DELETE", "/keys/a", headers={"If-Match": '"no"'})
    assert (answer.status, json.loads(answer.content)["kind"]) == (412, "PreconditionError")
    answer = ask(connection, "DELETE", "/keys/a")
    assert (answer.status, json.loads(answer.content)["metadata"]) == (200, {})


def test_errors(connection):
    for request, status, kind in (
        (("GET", "/keys/none/data"), 404, "KeyError"),
        (("GET", "/nowhere"), 404, "KeyError"),
        (("POST", "/keys/a/metadata", b"{"), 400, "ValueError"),
        (("GET", "/keys/%FF/data"), 400, "ValueError"),
        (("PATCH", "/keys/a/data"), 405, "ValueError"),
    ):
        answer = ask(connection, *request)
        assert (answer.status, json.loads(answer.content)["kind"]) == (status, kind)


def test_the_static_layout(connection, running, store):
    for number in range(50):
        store.set(f"k/{number}", (io.BytesIO(b"%d" % number), {"n": number}))
    answer = ask(connection, "GET", "/index.json", headers={"Accept-Encoding": "gzip"})
    assert answer.getheader("Content-Encoding") == "gzip"
    assert len(json.loads(gzip.decompress(answer.content))) == 50
    with StaticURLStore(running.url, "data/", "index.json", poll=0) as static:
        assert static.get_metadata("k/7") == {"n": 7}
        assert static.to_bytes("k/49") == b"49"
        assert static.get("k/49").range(1, 2).read() == b"9"
        static.update_index()


# The kit


@pytest.mark.slow
class TestConformanceUnderWaitress(DictKit, unittest.TestCase):
    failing_commit = StoreConformance.failing_commit

    def make_store(self, event_manager):
        waitress = pytest.importorskip("waitress", reason="waitress is not installed")
        inner = super().make_store(EventManager())
        inner.connect()
        server = waitress.create_server(
            StoreApplication(inner),
            host="127.0.0.1",
            port=0,
            threads=16,
            clear_untrusted_proxy_headers=True,
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        self.addCleanup(self.end, server, thread)
        url = f"http://127.0.0.1:{server.effective_port}/"
        return DynamicURLStore(f"{url}keys", f"{url}query", event_manager=event_manager)

    def end(self, server, thread):
        def close():
            # In its thread, which ends when there is nothing left to wait for.
            server.close()
            for channel in list(server.active_channels.values()):
                channel.close()
            server.trigger.close()

        server.trigger.pull_trigger(close)
        thread.join(DEADLINE)
        server.task_dispatcher.shutdown()

    def test_pickling(self):
        self.skipTest("two handles, but no two processes, share it")

    def make_handle(self, store):
        return DynamicURLStore(store.base_url, store.query_url)

    def process_store(self, store):
        return None

    def make_relative_store(self, event_manager):
        return None
