"""StaticURLStore over files and FTP, and what urllib raises."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.request

import pytest
from ftp_site import serving_ftp

from encore.events.event_manager import EventManager
from encore.storage._file_transport import FileTransport
from encore.storage._url_transport import URLTransport
from encore.storage.errors import AuthorizationError, StoreError, StoreOSError, TemporaryError
from encore.storage.events import StoreModificationEvent
from encore.storage.static_url_store import StaticURLStore

DATA = bytes(range(256)) * 600
SIZE = len(DATA)


def read(stream):
    with stream:
        return stream.read()


# Files


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "p\u00e4th to"
    (root / "data" / "b").mkdir(parents=True)
    (root / "data" / "a").write_bytes(DATA)
    (root / "data" / "b" / "\u00e4 c%2F?#").write_bytes(b"odd")
    index = {"a": {"n": 1}, "b/\u00e4 c%2F?#": {"n": 2}, "gone": {}, "b": {}, "b/": {}, "../index.json": {},
             "./a": {}, "b/../a": {}, "/a": {}, "b//c": {}, "..": {}, ".": {}, "\0": {}, "a/x": {},
             "k" * 300: {}}  # fmt: skip
    (root / "index.json").write_text(json.dumps(index))
    (root / "secret").write_bytes(b"secret")
    return root


@pytest.fixture
def store(folder):
    store = StaticURLStore(
        f"file:{folder}/", "data/", "index.json", 0, event_manager=EventManager()
    )
    with store:
        yield store


@pytest.mark.parametrize("form", ["file:{}/", "file://{}/", "file://localhost{}/", "FILE:{}/"])
def test_the_forms_of_a_file_url(folder, form):
    for path in (str(folder), urllib.request.pathname2url(str(folder))):
        with StaticURLStore(form.format(path), "data/", "index.json") as store:
            assert store.to_bytes("a") == DATA


def test_values_in_files(store, folder):
    value = store.get("a")
    status = os.stat(folder / "data" / "a")
    assert (value.size, value.modified) == (SIZE, status.st_mtime)
    assert value.created <= value.modified
    for start, end in ((None, None), (5, 10), (-5, None), (-10, -5), (SIZE, None), (5, 10**30)):
        assert read(value.range(start, end)) == DATA[start:end]
    assert store.to_bytes("b/\u00e4 c%2F?#") == b"odd"


@pytest.mark.parametrize(
    "key", ["gone", "b", "b/", "../index.json", "./a", "b/../a", "/a", "b//c", "..", ".", "\0", "a/x", "k" * 300]
)  # fmt: skip
def test_no_key_leads_elsewhere(store, key):
    assert store.exists(key)
    for use in (lambda: store.get_data(key), lambda: store.get(key).size):
        with pytest.raises(KeyError) as caught:
            use()
        assert caught.value.args == (key,)


def test_an_open_file_stays_what_it_was(store, folder):
    value = store.get("a")
    with value.data as stream:
        assert stream.read(10) == DATA[:10]
        (folder / "data" / "new").write_bytes(b"new")
        os.replace(folder / "data" / "new", folder / "data" / "a")
        assert stream.read() == DATA[10:]
    with pytest.raises(StoreError, match="have changed"):
        value.data  # noqa: B018 - it raises
    assert store.to_bytes("a") == b"new"


def test_a_file_that_becomes_shorter_is_an_error(store, folder):
    with store.get_data("a") as stream:
        stream.read(10)
        os.truncate(folder / "data" / "a", 100_000)
        with pytest.raises(StoreError, match="too early"):
            stream.read()


def test_an_index_in_a_file_is_read_when_it_has_changed(store, folder):
    events = []
    store.event_manager.connect(StoreModificationEvent, lambda event: events.append(event.key))
    store.update_index()
    assert events == []
    before = os.stat(folder / "index.json")
    (folder / "index.json").write_text('{"a": {"n": 5}}')
    store.update_index()
    assert events[-1] == "a"
    # As long ago, it is believed.
    (folder / "index.json").write_text('{"a": {"n": 6}}')
    os.utime(folder / "index.json", (before.st_atime - 10, before.st_mtime - 10))
    store.update_index()
    index = store._session.index
    store.update_index()
    assert store._session.index is index
    assert store.get_metadata("a") == {"n": 6}


def test_files_that_may_not_be_read(store, folder, monkeypatch):
    def refuse(path, *args):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("encore.storage._file_transport.os.open", refuse)
    with pytest.raises(StoreOSError) as caught:
        store.get_data("a")
    assert caught.value.errno == 13


def test_a_second_change_before_the_clock_ticks_is_seen(store, folder):
    path = folder / "index.json"
    path.write_text('{"a": {"n": 5}}')
    store.update_index()
    status = os.stat(path)
    path.write_text('{"a": {"n": 6}}')
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    store.update_index()
    assert store.get_metadata("a") == {"n": 6}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
def test_nobody_waits_for_the_other_end_of_a_fifo(store, folder):
    os.mkfifo(folder / "data" / "gone")
    with pytest.raises(KeyError):
        store.get_data("gone")


def test_files_are_only_read(folder):
    with pytest.raises(StoreError, match="only be read"):
        FileTransport().send("PUT", f"file:{folder}/x", {}, b"", 1.0)
    with pytest.raises(StoreError, match="not on this machine"):
        FileTransport().send("GET", "file://elsewhere/x", {}, None, 1.0)


def test_nothing_stays_open(store):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        store.get("a").size  # noqa: B018 - it asks
        store.get_data("a").close()
        store.get_data("a").read(5)
        read(store.get_data_range("a", 5, 10))
        store.update_index()
    assert len(os.listdir("/proc/self/fd")) == before


# FTP


@pytest.fixture
def ftp():
    files = {
        "/pub/index.json": b'{"a": {"n": 1}, "b c/\\u00e4": {}, "gone": {}, "b c": {}, "../x": {}, "\\n": {}, '
        b'"no/such": {}}',
        "/pub/data/a": DATA,
        "/pub/data/b c/\u00e4": b"odd",
        "/pub/x": b"secret",
    }
    with serving_ftp(files) as server:
        yield server


@pytest.fixture
def ftp_store(ftp):
    store = StaticURLStore(
        f"{ftp.url}pub/", "data/", "index.json", 0, event_manager=EventManager(), timeout=5
    )
    with store:
        yield store


def test_values_by_ftp(ftp, ftp_store):
    assert dict(ftp_store.query(n=1)) == {"a": {"n": 1}}
    value = ftp_store.get("a")
    assert (value.size, value.modified) == (SIZE, 1_700_000_000.5)
    assert not any(command.startswith("RETR a") for command in ftp.seen)
    assert read(value.data) == DATA
    assert ftp_store.to_bytes("b c/\u00e4") == b"odd"
    assert not any(command.startswith("LIST") for command in ftp.seen)


@pytest.mark.parametrize("unknown", [set(), {"SIZE", "MDTM"}, {"REST"}], ids=str)
def test_ranges_by_ftp(ftp, ftp_store, unknown):
    ftp.unknown = unknown
    value = ftp_store.get("a")
    for start, end in (
        (None, None),
        (5, 10),
        (-5, None),
        (-10, -5),
        (5, -5),
        (SIZE, None),
        (-5, SIZE),
    ):
        assert read(value.range(start, end)) == DATA[start:end]
    assert any(command == "REST 5" for command in ftp.seen) == ("SIZE" not in unknown)


def test_what_is_not_there_by_ftp(ftp, ftp_store):
    for key in ("gone", "b c", "../x", "\n", "no/such"):
        assert ftp_store.exists(key)
        with pytest.raises(KeyError) as caught:
            ftp_store.get_data(key)
        assert caught.value.args == (key,)


@pytest.mark.parametrize("unknown", [set(), {"SIZE"}], ids=str)
def test_data_by_ftp_that_end_too_early(ftp, ftp_store, unknown):
    ftp.unknown = unknown
    ftp.cut = 1000
    with ftp_store.get_data("a") as stream, pytest.raises(StoreError):
        stream.read()
    with pytest.raises(StoreError):
        ftp_store.to_bytes("a")
    with ftp_store.get_data("a") as stream:
        assert stream.read(10) == DATA[:10]


def test_credentials_for_ftp(ftp):
    ftp.users = {"me": "word"}
    store = StaticURLStore(f"{ftp.url}pub/", "data/", "index.json", 0, timeout=5)
    for credentials in (None, {"username": "me", "password": "wrong"}):
        with pytest.raises(AuthorizationError):
            store.connect(credentials)
        assert not store.is_connected()
    store.connect({"username": "me", "password": "word"})
    assert store.to_bytes("a") == DATA
    store.disconnect()
    url = ftp.url.replace("//", "//me:word@")
    with StaticURLStore(f"{url}pub/", "data/", "index.json", 0, timeout=5) as store:
        assert store.to_bytes("a") == DATA
        assert "word" not in repr(store)


def test_a_path_from_the_root_by_ftp(ftp):
    with StaticURLStore(f"{ftp.url}/pub/", "data/", "index.json", 0) as store:
        assert store.to_bytes("a") == DATA
    assert "CWD /" in ftp.seen


def test_an_ftp_server_that_is_not_there():
    with serving_ftp({}) as server:
        url = server.url
    store = StaticURLStore(url, "data/", "index.json", timeout=0.05)
    with pytest.raises(StoreError):
        store.connect()


# What openers raise


class Failing:
    """An opener, or a response, that fails."""

    headers = None

    def __init__(self, error):
        self.error = error

    def open(self, url, timeout=None):
        raise self.error

    def read(self, size):
        raise self.error

    def close(self):
        pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (urllib.error.URLError("text"), StoreError),
        (urllib.error.URLError(ConnectionRefusedError(111, "refused")), StoreOSError),
        (urllib.error.URLError(socket.gaierror(socket.EAI_AGAIN, "later")), TemporaryError),
        (urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "unknown")), StoreError),
        (urllib.error.URLError(ssl.SSLCertVerificationError(1, "bad")), StoreError),
        (urllib.error.URLError(TimeoutError()), TemporaryError),
        (TimeoutError(), TemporaryError),
        (ConnectionResetError(104, "reset"), TemporaryError),
        (http.client.RemoteDisconnected("gone"), TemporaryError),
        (http.client.IncompleteRead(b"abc", 5), TemporaryError),
        (http.client.BadStatusLine("garbage"), StoreError),
        (http.client.InvalidURL("spaces"), StoreError),
        (OSError("odd"), StoreError),
        (TemporaryError("own"), TemporaryError),
    ],
    ids=repr,
)  # fmt: skip
def test_what_urllib_raises(error, kind):
    secret = "http://me:word@host/?sig=word"
    with pytest.raises(kind) as caught:
        URLTransport(Failing(error)).send("GET", secret, {}, None, 1.0)
    assert "word" not in str(caught.value)
    assert caught.value is error or caught.value.__cause__ is error

    class Opener:
        def open(self, url, timeout=None):
            return Failing(error)

    with contextlib.closing(URLTransport(Opener()).send("GET", secret, {}, None, 1.0)) as response:
        with pytest.raises(kind) as caught:
            response.read()
        assert "word" not in str(caught.value)
