"""nginx: as a server of plain files for a StaticURLStore, and in front of our own server."""

from __future__ import annotations

import io
import os
import unittest
from itertools import count

import pytest
from odd_keys import KEYS, NAMES, PATHS, UNREACHABLE
from peers import Nginx
from static_files import export, write_index

from encore.events.event_manager import EventManager
from encore.storage._http_server import Server
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import (
    AuthorizationError,
    PreconditionError,
    StoreError,
    TemporaryError,
)
from encore.storage.events import StoreModificationEvent
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication
from encore.storage.static_url_store import StaticURLStore
from encore.testing.conformance import ReadOnlyStoreConformance

pytestmark = pytest.mark.skipif(os.name != "posix", reason="nginx inherits sockets")

FILES = """
    root {folder}/files;
    location /zipped/ {{ gzip on; gzip_min_length 1; gzip_types *; }}
    location /few/ {{ keepalive_requests 2; }}
    location /moved/ {{ return 301 /plain/; }}
    location ~ ^/elsewhere/(.*)$ {{ return 302 /plain/$1; }}
    location /private/ {{ auth_basic "for friends"; auth_basic_user_file {folder}/users; }}
    location /closed/data/ {{ deny all; }}
    location /busy/data/ {{ return 503; }}
"""

PROXY = "client_max_body_size 0; location / {{ proxy_pass http://127.0.0.1:{port}; }}"

# Nothing is kept on disk in between.
STREAMING_PROXY = """
    client_max_body_size 0;
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header Connection "";
    proxy_request_buffering off;
    proxy_buffering off;
    location / {{ proxy_pass http://127.0.0.1:{port}; }}
    location /limited/ {{ client_max_body_size 1k; proxy_pass http://127.0.0.1:{port}/; }}
    location /merged/ {{ proxy_pass http://127.0.0.1:{port}/; }}
    location /gone/ {{ proxy_pass http://127.0.0.1:{gone}/; }}
"""

CONTENTS = {
    "a": (b"0123456789", {"n": 1}),
    "deep/er": (b"data", {"type": "text/plain"}),
    "empty": (b"", {}),
}


@pytest.fixture(scope="module")
def nginx(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nginx")
    for name in ("plain", "zipped", "few", "private", "closed", "busy"):
        export(CONTENTS, folder / "files" / name)
    (folder / "users").write_text("alibaba:{PLAIN}open s\u00e9same\n")
    with Nginx(folder, FILES.format(folder=folder)) as running:
        running.url = running.urls[0]
        running.files = folder / "files"
        running.numbers = count()
        yield running


def static(nginx, place, **arguments):
    arguments.setdefault("poll", 0)
    return StaticURLStore(f"{nginx.url}{place}/", "data/", "index.json", **arguments)


class TestConformance(ReadOnlyStoreConformance, unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _served(self, nginx):
        self.nginx = nginx

    def make_filled_store(self, contents, event_manager=None):
        place = f"kit{next(self.nginx.numbers)}"
        export(contents, self.nginx.files / place)
        return static(self.nginx, place, event_manager=event_manager)


def test_any_name_of_a_file_is_a_key(nginx):
    contents = {key: (key.encode(), {"key": key}) for key in NAMES}
    export(contents, nginx.files / "odd")
    with static(nginx, "odd") as store:
        assert sorted(store.query_keys()) == sorted(NAMES)
        for key in NAMES:
            assert store.get_metadata(key) == {"key": key}
            assert store.to_bytes(key) == key.encode()
            assert store.get(key).size == len(key.encode())


def test_the_index_is_fetched_when_it_has_changed(nginx):
    export(CONTENTS, nginx.files / "index")
    manager = EventManager()
    with static(nginx, "index", event_manager=manager) as store:
        events = []
        manager.connect(
            StoreModificationEvent, lambda event: events.append((event.action, event.key))
        )
        store.update_index()
        assert events == []
        write_index(nginx.files / "index", {"a": {"n": 2}, "new": {}})
        store.update_index()
        assert sorted(events) == [
            ("delete", "deep/er"),
            ("delete", "empty"),
            ("set", "new"),
            ("update", "a"),
        ]
        assert store.get_metadata("a") == {"n": 2}
        store.update_index()
    lines = nginx.log("GET /index/index.json", 4)
    assert [line[2] for line in lines] == ["200", "304", "200", "304"]
    assert [line[5] == '"-"' for line in lines] == [True, False, False, False]


def test_an_index_that_is_compressed_on_the_fly(nginx):
    with static(nginx, "zipped") as store:
        assert dict(store.query()) == {key: metadata for key, (_, metadata) in CONTENTS.items()}
        store.update_index()
        # Of what is compressed no size and no range could be told.
        assert store.get("a").size == 10
        assert store.get("a").range(2, 4).read() == b"23"
    lines = nginx.log("GET /zipped/index.json", 2)
    assert [(line[2], line[6]) for line in lines] == [("200", '"gzip"'), ("304", '"-"')]
    assert {line[6] for line in nginx.log(" /zipped/data/a ")} == {'"-"'}


def test_ranges_are_asked_for(nginx):
    with static(nginx, "plain") as store:
        value = store.get("a")
        for start, end in ((2, 5), (None, 3), (7, None), (-3, None), (2, -2), (0, 100), (9, 10)):
            assert value.range(start, end).read() == b"0123456789"[start:end]
        assert store.get("a").range(10, 20).read() == b""
        assert store.get("a").range(-100, None).read() == b"0123456789"
        assert store.get("empty").range(0, 5).read() == b""
        assert store.get_data_range("deep/er", 1, 3).read() == b"at"
    asked = [(line[4], line[2]) for line in nginx.log("GET /plain/data/a ", 6)]
    assert ('"bytes=2-4"', "206") in asked
    assert ('"bytes=10-19"', "416") in asked


def test_one_connection_does_for_many_requests(nginx):
    export(CONTENTS, nginx.files / "kept")
    with static(nginx, "kept") as store:
        for _ in range(5):
            assert store.to_bytes("deep/er") == b"data"
    lines = nginx.log("GET /kept/", 6)
    assert len({line[3] for line in lines}) == 1


def test_a_server_that_ends_connections_when_it_likes(nginx):
    with static(nginx, "few") as store:
        for _ in range(5):
            assert store.to_bytes("deep/er") == b"data"
    lines = nginx.log("GET /few/", 6)
    assert len({line[3] for line in lines}) == 3


def test_large_data_come_piece_by_piece(nginx):
    data = os.urandom(1 << 20) * 5
    export({"large": (data, {})}, nginx.files / "large")
    with static(nginx, "large") as store:
        with store.get_data("large") as stream:
            assert b"".join(iter(lambda: stream.read(100_000), b"")) == data
        assert (
            store.get_data_range("large", 1_000_000, 3_000_000).read() == data[1_000_000:3_000_000]
        )


class TestPasswords:
    right = {"username": "alibaba", "password": "open s\u00e9same"}

    def test_the_right_one(self, nginx):
        store = static(nginx, "private")
        store.connect(self.right)
        assert store.to_bytes("a") == b"0123456789"
        assert store.get("a").range(1, 3).read() == b"12"
        store.disconnect()
        # Only the first request is asked for it.
        lines = nginx.log("GET /private/", 4)
        assert [line[2] for line in lines][-4:] == ["401", "200", "200", "206"]
        assert lines[-1][7] == '"alibaba"'

    @pytest.mark.parametrize(
        "credentials",
        [None, {**right, "password": "close sesame"}, {**right, "username": "cassim"}],
    )
    def test_no_other(self, nginx, credentials):
        store = static(nginx, "private")
        with pytest.raises(AuthorizationError) as caught:
            store.connect(credentials)
        assert "sesame" not in str(caught.value)
        assert not store.is_connected()

    def test_that_of_a_url(self, nginx):
        url = nginx.url.replace("//", "//alibaba:open%20s%C3%A9same@")
        with StaticURLStore(f"{url}private/", "data/", "index.json", poll=0) as store:
            assert store.to_bytes("a") == b"0123456789"


def test_what_nginx_refuses(nginx):
    with static(nginx, "closed") as store, pytest.raises(AuthorizationError):
        store.to_bytes("a")
    with static(nginx, "busy") as store, pytest.raises(TemporaryError):
        store.to_bytes("a")
    with pytest.raises(StoreError, match="404"):
        static(nginx, "nothing").connect()


def test_what_was_taken_away(nginx):
    export(CONTENTS, nginx.files / "less")
    (nginx.files / "less" / "data" / "a").unlink()
    with static(nginx, "less") as store:
        with pytest.raises(KeyError, match="a"):
            store.to_bytes("a")
        value = store.get("deep/er")
        assert value.size == 4
        (nginx.files / "less" / "data" / "deep" / "er").write_bytes(b"other data")
        with pytest.raises(StoreError, match="changed"):
            value.data.read()


def test_redirects_are_followed(nginx):
    with static(nginx, "elsewhere") as store:
        assert store.to_bytes("deep/er") == b"data"
        assert store.get("a").range(1, 3).read() == b"12"


# In front of our server


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """nginx before a server; give it, with the store that is served."""
    folder = tmp_path_factory.mktemp("proxy")
    inner = DictMemoryStore(event_manager=EventManager())
    inner.connect()
    with Server(StoreApplication(inner), port=0) as gone:
        pass
    with Server(StoreApplication(inner), port=0) as server:
        texts = [text.format(port=server.port, gone=gone.port) for text in (PROXY, STREAMING_PROXY)]
        with Nginx(folder, *texts) as running:
            running.inner = inner
            yield running


@pytest.fixture(params=["buffered", "streaming"])
def store(request, proxied):
    for key in list(proxied.inner.query_keys()):
        proxied.inner.delete(key)
    url = proxied.urls[request.param == "streaming"]
    with DynamicURLStore(f"{url}keys", f"{url}query", policy=RetryPolicy(1)) as connected:
        connected.inner = proxied.inner
        yield connected


def test_a_store_behind_nginx(store):
    assert store.info()["conditional"] is True
    store.set("tale/1", (io.BytesIO(b"Open Sesame"), {"hero": "Alibaba"}))
    value = store.get("tale/1")
    assert (value.data.read(), value.metadata) == (b"Open Sesame", {"hero": "Alibaba"})
    assert store.get_data_range("tale/1", 5, 8).read() == b"Ses"
    assert list(store.query_keys(hero="Alibaba")) == ["tale/1"]
    store.from_bytes("tale/2", b"")
    store.update_metadata("tale/2", {"n": 2})
    assert list(store.keys(start_after="tale/1")) == ["tale/2"]
    store.set_data("tale/1", io.BytesIO(b"new"), if_match=value.etag)
    with pytest.raises(PreconditionError):
        store.set_data("tale/1", io.BytesIO(b"newer"), if_match=value.etag)
    with pytest.raises(PreconditionError):
        store.set_metadata("tale/1", {}, if_none_match="*")
    store.delete("tale/1")
    assert not store.exists("tale/1")
    with pytest.raises(KeyError):
        store.get("tale/1")


def test_any_key_survives_or_is_refused(store):
    for key in KEYS:
        if key in UNREACHABLE:
            with pytest.raises(StoreError, match="status 400"):
                store.set(key, (io.BytesIO(b""), {}))
            with pytest.raises(StoreError, match="status 400"):
                store.exists(key)
        else:
            store.set(key, (io.BytesIO(key.encode()), {"key": key}))
    survivors = sorted(set(KEYS) - set(UNREACHABLE))
    assert sorted(store.inner.query_keys()) == survivors
    assert list(store.keys()) == survivors
    for key in survivors:
        value = store.get(key)
        assert (value.data.read(), value.metadata) == (key.encode(), {"key": key})
    for key in survivors:
        store.delete(key)
    assert list(store.inner.query_keys()) == []


def test_a_key_that_nginx_makes_another_one_of_is_refused(proxied):
    # That is what it does where proxy_pass has a path.
    inner, url = proxied.inner, f"{proxied.urls[1]}merged/"
    for key in list(inner.query_keys()):
        inner.delete(key)
    for key in ("a", "a/b", "x"):
        inner.from_bytes(key, b"old")
    with DynamicURLStore(f"{url}keys", f"{url}query", policy=RetryPolicy(1)) as store:
        for key in sorted({*PATHS, *UNREACHABLE} - {"data", "a/"}):
            for call in (
                lambda key=key: store.set(key, (io.BytesIO(b"new"), {})),
                lambda key=key: store.set_metadata(key, {"n": 1}),
                lambda key=key: store.get(key),
                lambda key=key: store.exists(key),
                lambda key=key: store.delete(key),
            ):
                with pytest.raises(StoreError, match=r"changed on the way|status 400"):
                    call()
        assert dict(inner.query()) == {"a": {}, "a/b": {}, "x": {}}
        store.from_bytes("%2E", b"data")
        assert store.to_bytes("%2E") == inner.to_bytes("%2E") == b"data"
        store.delete("%2E")


class Pieces(io.RawIOBase):
    """Zeros, without a size."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        buffer[:size] = bytes(size)
        self.left -= size
        return size


def test_large_data_both_ways(store):
    size = 5 << 20
    store.set_data("sized", io.BytesIO(bytes(size)))
    store.set_data("chunked", Pieces(size))
    for key in ("sized", "chunked"):
        with store.get_data(key) as stream:
            assert sum(map(len, iter(lambda: stream.read(1 << 16), b""))) == size


def test_a_body_that_is_too_large_for_nginx(proxied):
    url = f"{proxied.urls[1]}limited/"
    with DynamicURLStore(f"{url}keys", f"{url}query") as store:
        store.from_bytes("small", b"data")
        for size in (2000, 3_000_000):
            with pytest.raises(StoreError, match="status 413"):
                store.from_bytes("large", bytes(size))
        with pytest.raises(StoreError, match="status 413"):
            store.set_data("large", Pieces(3_000_000))
        assert not store.exists("large")


def test_a_server_that_is_gone(proxied):
    url = f"{proxied.urls[1]}gone/"
    store = DynamicURLStore(f"{url}keys", f"{url}query", policy=RetryPolicy(1))
    with pytest.raises(TemporaryError, match="status 502"):
        store.connect()


def test_the_static_layout_of_a_server_behind_nginx(proxied, store):
    store.set("a", (io.BytesIO(b"data"), {"n": 1}))
    with StaticURLStore(proxied.urls[0], "data/", "index.json", poll=0) as static_store:
        assert static_store.get_metadata("a") == {"n": 1}
        assert static_store.get("a").range(1, 3).read() == b"at"
        static_store.update_index()
