"""Values: what is kept in memory, in a file, behind a URL, and what users write themselves."""

from __future__ import annotations

import contextlib
import gc
import http.server
import io
import math
import os
import pickle
import subprocess
import sys
import threading
import urllib.request
import warnings
from email.message import Message
from pathlib import Path

import pytest

from encore.events.api import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import AuthorizationError, StoreError, StoreOSError
from encore.storage.file_value import FileValue, LateFile, OpenFile, open_file
from encore.storage.string_value import StringValue
from encore.storage.url_value import URLValue
from encore.storage.value import SourceValue, Value, check_value
from encore.storage.wrapper_store import open_value

DATA = bytes(range(256)) * 3
BOUNDS = [None, 0, 1, 2, 255, 767, 768, 769, 10**30, -1, -2, -767, -768, -769, -(10**30), True]


class MinimalValue(Value):
    """What a user has to write, and no more."""

    def __init__(self, data=DATA, size=None, stream=io.BytesIO):
        self._bytes = data
        self.size = size
        self._stream = stream
        self.opened = []

    @property
    def data(self):
        stream = self._stream(self._bytes)
        self.opened.append(stream)
        return stream

    @property
    def metadata(self):
        return {"a": [1]}


class Forward(io.RawIOBase):
    """A stream that can only be read on, and counts how much it was."""

    def __init__(self, data):
        super().__init__()
        self._inner = io.BytesIO(data)
        self.count = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        if self.closed:
            raise ValueError("I/O operation on closed file")
        size = self._inner.readinto(buffer)
        self.count += size
        return size


def file_value(tmp_path, data=DATA, **kwargs):
    path = tmp_path / "file"
    path.write_bytes(data)
    return FileValue(path, **kwargs)


def file_url(tmp_path):
    return Path(file_value(tmp_path).path).as_uri()


@pytest.fixture(
    params=[
        "minimal",
        "minimal, size known",
        "forward",
        "forward, size known",
        "string",
        "file",
        "source",
        "url",
    ]
)
def value(request, tmp_path):
    return {
        "minimal": MinimalValue,
        "minimal, size known": lambda: MinimalValue(size=len(DATA)),
        "forward": lambda: MinimalValue(stream=Forward),
        "forward, size known": lambda: MinimalValue(size=len(DATA), stream=Forward),
        "string": lambda: StringValue(DATA, {"a": [1]}),
        "file": lambda: file_value(tmp_path, metadata={"a": [1]}),
        "source": lambda: SourceValue(
            open_file(file_value(tmp_path).path), {"a": [1]}, 1.0, 2.0, "etag"
        ),
        "url": lambda: URLValue(file_url(tmp_path), {"a": [1]}),
    }[request.param]()


def into(steps):
    """Make a progress callback that notes the steps."""
    return lambda *, step: steps.append(step)


# What holds for all of them


def test_ranges_are_slices(value):
    for start in BOUNDS:
        for end in BOUNDS:
            with value.range(start, end) as stream:
                assert stream.read() == DATA[start:end], (start, end)


@pytest.mark.parametrize("bound", ["1", 1.0, b"1", []])
def test_a_bound_is_an_int(value, bound):
    with pytest.raises(TypeError, match="start"):
        value.range(bound)
    with pytest.raises(TypeError, match="end"):
        value.range(0, bound)


def test_bounds_may_be_of_any_integer_type(value):
    class Index:
        def __init__(self, value):
            self.value = value

        def __index__(self):
            return self.value

    with value.range(Index(2), Index(5)) as stream:
        assert stream.read() == DATA[2:5]
    with value.range(Index(-3)) as stream:
        assert stream.read() == DATA[-3:]


def test_each_access_to_data_is_a_stream_of_its_own(value):
    with value.data as one, value.data as other, value.range(1) as part:
        assert one is not other
        assert one.read(3) == DATA[:3]
        assert other.read(1) == DATA[:1]
        assert part.read(1) == DATA[1:2]
        assert one.read() == DATA[3:]
        assert other.read() == DATA[1:]


@pytest.mark.parametrize("face", ["data", "range", "empty range"])
def test_streams_are_real_io_objects(value, face):
    if face == "empty range":
        with value.range(5, 5) as stream:
            assert stream.read() == stream.read(5) == b""
        return
    stream = value.data if face == "data" else value.range(10)
    expected = DATA if face == "data" else DATA[10:]
    assert stream.readable()
    assert not stream.closed
    assert stream.read(0) == b""
    buffer = bytearray(7)
    assert stream.readinto(buffer) == 7
    assert buffer == expected[:7]
    assert stream.readline() == expected[7:].partition(b"\n")[0] + b"\n"
    stream.read()
    assert stream.read() == stream.read(-1) == stream.read(1) == b""
    with stream:
        pass
    assert stream.closed
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_iterdata(value):
    for buffer_size in (1, 100, 767, 768, 769, 10**6):
        steps = []
        buffers = list(value.iterdata(buffer_size, into(steps)))
        assert b"".join(buffers) == DATA
        assert max(map(len, buffers)) <= buffer_size
        assert steps[-1] == len(DATA)
        assert len(steps) == len(buffers)
    assert b"".join(value.iterdata()) == DATA
    for wrong, error in ((0, ValueError), (-1, ValueError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error):
            value.iterdata(wrong)


def test_buffers_without_progress(value):
    for buffer_size in (1, 767, 768, 769):
        buffers = list(value.iterdata(buffer_size))
        assert b"".join(buffers) == DATA
        assert max(map(len, buffers)) <= buffer_size
    assert list(StringValue(b"").iterdata()) == []


def test_a_value_in_memory_with_other_data():
    class Upper(StringValue):
        @property
        def data(self):
            return io.BytesIO(self._data.upper())

    assert list(Upper(b"data").iterdata()) == [b"DATA"]


def test_metadata_are_a_copy(value):
    metadata = value.metadata
    metadata["a"].append(2)
    metadata["b"] = 3
    assert value.metadata == {"a": [1]}


def test_with_gives_the_data_and_closes_them(value):
    with value as stream:
        assert stream.read() == DATA
    assert stream.closed
    with value as one, value as other:
        assert one.read(1) == other.read(1) == DATA[:1]
    assert one.closed
    assert other.closed
    with pytest.raises(LookupError), value as stream:
        raise LookupError
    assert stream.closed


def test_several_threads_may_enter_one_value(value):
    entered, checked = threading.Event(), threading.Event()
    results = []

    def enter():
        with value as stream:
            entered.set()
            assert checked.wait(30)
            results.append(stream.read() == DATA)

    thread = threading.Thread(target=enter)
    thread.start()
    assert entered.wait(30)
    with value as stream:
        pass
    assert stream.closed
    with value as stream:
        checked.set()
        thread.join(30)
        assert not stream.closed
    assert results == [True]


def test_the_face_of_a_tuple_is_deprecated(value):
    with pytest.warns(DeprecationWarning, match="value.data") as caught:
        assert len(value) == 2
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="value.data") as caught:
        data, metadata = value
    with data:
        assert data.read() == DATA
    assert metadata == {"a": [1]}
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeprecationWarning)
        for position in (0, -2):
            with value[position] as stream:
                assert stream.read() == DATA
        assert value[1] == value[-1] == {"a": [1]}
        for position in (2, -3):
            with pytest.raises(IndexError):
                value[position]
    assert [(each.category, each.filename) for each in caught] == [
        (DeprecationWarning, __file__)
    ] * 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value


def test_most_values_have_no_permissions(value):
    with pytest.raises(AuthorizationError):
        value.permissions  # noqa: B018 - it raises


def test_any_value_can_be_stored(value):
    store = DictMemoryStore(event_manager=EventManager())
    store.set("k", value, 100)
    assert store.to_bytes("k") == DATA
    assert store.get_metadata("k") == {"a": [1]}


def test_a_repr_names_the_class(value):
    assert type(value).__name__ in repr(value)


def test_abandoned_streams_close_what_they_opened(value):
    stream = value.range(1)
    stream.read(1)
    buffers = value.iterdata(1)
    next(buffers)
    value.range(3, 5)
    value.iterdata()
    del stream, buffers
    gc.collect()  # pytest reports what was left open


# The base class


def test_a_value_is_abstract():
    with pytest.raises(TypeError):
        Value()
    value = MinimalValue()
    assert (value.size, value.created, value.modified, value.etag) == (None,) * 4
    assert repr(value) == "<MinimalValue of unknown size>"
    assert repr(MinimalValue(size=3)) == "<MinimalValue of 3 bytes>"


@pytest.mark.parametrize("size", [None, 10**6])
def test_a_small_range_of_a_seekable_value_reads_little(size):
    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1):
            data = super().read(size)
            self.count += len(data)
            return data

    value = MinimalValue(bytes(10**6), size, Counting)
    with value.range(500_000, 500_010) as stream:
        assert len(stream.read()) == 10
    assert [opened.count for opened in value.opened] == [10]


def test_an_empty_range_opens_nothing():
    value = MinimalValue(size=5)
    assert value.range(3, 3).read() == value.range(9).read() == value.range(4, 2).read() == b""
    assert value.opened == []
    value = MinimalValue()
    assert value.range(3, 3).read() == value.range(4, 2).read() == b""
    assert value.opened == []


def test_streams_are_closed_when_the_range_is_read_or_given_up():
    value = MinimalValue()
    assert value.range(0, 3).read() == DATA[:3]
    assert list(value.iterdata())
    part = value.range(0, 3)
    part.read(1)
    part.close()
    buffers = value.iterdata(10)
    next(buffers)
    buffers.close()
    assert [stream.closed for stream in value.opened] == [True] * 4


def test_a_wrong_size_is_not_believed():
    value = MinimalValue(b"abc", size=10)
    assert value.range(1, 9).read() == b"bc"
    assert value.range(5).read() == b""


def test_what_the_stream_raises_passes_through():
    class Failing(io.BytesIO):
        def read(self, size=-1):
            raise KeyboardInterrupt

    value = MinimalValue(stream=Failing)
    for use in (
        lambda: list(value.iterdata()),
        lambda: value.range(1, 2).read(),
        lambda: value.range(-1),
    ):
        with pytest.raises(KeyboardInterrupt):
            use()
    assert all(stream.closed for stream in value.opened)


# What set() takes


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"data",
        "text",
        5,
        [io.BytesIO(), {}],
        (io.BytesIO(),),
        (io.BytesIO(), {}, 1),
        io.BytesIO(),
        {},
        (b"", {}),
        (None, {}),
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_value_is_a_type_error(value):
    with pytest.raises(TypeError):
        check_value(value)
    with pytest.raises(TypeError), open_value(value):
        pytest.fail("it was taken")


def test_a_message_says_what_to_pass():
    with pytest.raises(TypeError, match=r"tuple \(binary stream, metadata dict\).*from_bytes"):
        check_value(b"x" * 10**6)


def test_a_value_is_opened_and_closed_and_a_stream_is_left_open():
    value = MinimalValue(size=3)
    with open_value(value) as (stream, metadata, size):
        assert stream.read() == DATA
        assert (metadata, size) == ({"a": [1]}, 3)
    assert stream.closed
    given = io.BytesIO(b"abc")
    with open_value((given, {"b": 1})) as (stream, metadata, size):
        assert stream is given
        assert (metadata, size) == ({"b": 1}, None)
    assert not given.closed


# StringValue


def test_a_string_value():
    value = StringValue(b"abc", {"a": (1,)}, 1.5, 2.5)
    assert value.data.read() == b"abc"
    assert value.metadata == {"a": [1]}
    assert (value.size, value.created, value.modified) == (3, 1.5, 2.5)
    assert isinstance(value.etag, str)
    empty = StringValue()
    assert (empty.data.read(), empty.metadata, empty.size, empty.created, empty.modified) == (
        b"",
        {},
        0,
        None,
        None,
    )


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")])
def test_a_string_value_copies_what_can_change(data):
    value = StringValue(data)
    if isinstance(data, bytearray):
        data[:] = b"xyz"
    assert value.data.read() == b"abc"


@pytest.mark.parametrize("data", [None, "text", 5, [1], io.BytesIO()])
def test_a_string_value_is_of_bytes(data):
    with pytest.raises(TypeError, match="takes bytes"):
        StringValue(data)


@pytest.mark.parametrize(
    "kind",
    [
        lambda metadata: StringValue(b"", metadata),
        lambda metadata: FileValue("x", metadata),
        lambda metadata: URLValue("file:///x", metadata),
    ],
    ids=["string", "file", "url"],
)
def test_metadata_are_checked_and_copied(kind):
    metadata = {"a": [1]}
    value = kind(metadata)
    metadata["a"].append(2)
    assert value.metadata == {"a": [1]}
    for wrong, error in (
        ([], TypeError),
        ({1: 2}, TypeError),
        ({"a": b""}, TypeError),
        ({"a": math.nan}, ValueError),
    ):
        with pytest.raises(error):
            kind(wrong)


def test_string_values_that_differ_have_different_etags():
    values = [
        StringValue(),
        StringValue(b"a"),
        StringValue(b"b"),
        StringValue(b"a", {"a": 1}),
        StringValue(b"a", {"a": True}),
        StringValue(b"a", None, 1.0),
        StringValue(b"a", None, 1.0, 2.0),
        StringValue(b"a", None, 1.0, 3.0),
        StringValue(b"ab", None, 1.0, 3.0),
    ]
    assert len({value.etag for value in values}) == len(values)
    assert StringValue(b"a", {"b": 1, "a": 2}).etag == StringValue(b"a", {"a": 2, "b": 1}).etag


def test_a_string_value_can_be_pickled():
    value = pickle.loads(pickle.dumps(StringValue(b"abc", {"a": 1}, 1.0, 2.0)))
    assert (value.data.read(), value.metadata, value.created) == (b"abc", {"a": 1}, 1.0)


# FileValue


def test_a_file_value_shows_the_file(tmp_path):
    value = file_value(tmp_path)
    status = os.stat(value.path)
    assert value.metadata == {}
    assert (value.size, value.modified, value.created) == (
        len(DATA),
        status.st_mtime,
        status.st_ctime,
    )
    etag = value.etag
    assert etag == value.etag
    (tmp_path / "file").write_bytes(b"longer" + DATA)
    assert value.size == len(DATA) + 6
    assert value.etag != etag
    with value.data as stream:
        assert stream.read() == b"longer" + DATA
    assert repr(value) == f"FileValue({value.path!r})"
    assert pickle.loads(pickle.dumps(value)).size == value.size


def test_metadata_are_part_of_the_etag_of_a_file(tmp_path):
    assert file_value(tmp_path).etag != FileValue(tmp_path / "file", {"a": 1}).etag


@pytest.mark.parametrize("path", [None, 5, [], object()])
def test_the_path_of_a_file_value_is_a_path(path):
    with pytest.raises(TypeError):
        FileValue(path)


def test_a_file_that_is_not_there_is_a_store_os_error(tmp_path):
    value = FileValue(tmp_path / "missing")
    for use in (
        lambda: value.data,
        lambda: value.size,
        lambda: value.created,
        lambda: value.modified,
        lambda: value.etag,
        lambda: value.range(1),
        lambda: list(value.iterdata()),
    ):
        with pytest.raises(StoreOSError) as caught:
            use()
        assert caught.value.errno == 2
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(TypeError):
        value.range("bad arguments come first")


def test_an_open_range_keeps_the_file_that_it_opened(tmp_path):
    value = file_value(tmp_path)
    stream = value.range(1)
    os.unlink(value.path)
    assert stream.read() == DATA[1:]


def test_files_are_closed_with_the_last_stream(tmp_path):
    value = file_value(tmp_path)
    gc.collect()
    before = len(OpenFile.live)
    stream = value.range(1)
    assert len(OpenFile.live) == before + 1
    value.range(5, 5).close()
    del stream
    gc.collect()
    assert len(OpenFile.live) == before


def test_a_late_file_is_open_only_while_it_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(DATA)
    before = len(OpenFile.live)
    late = LateFile(str(path), os.stat(path))
    assert late.size == len(DATA)
    assert late.pread(5, 10) == DATA[10:15]
    assert len(OpenFile.live) == before
    path.write_bytes(DATA + b"more")
    with pytest.raises(StoreError, match="changed"):
        late.pread(5, 10)
    path.unlink()
    with pytest.raises(StoreOSError):
        late.pread(5, 10)


def test_a_file_that_cannot_be_looked_at_is_closed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.touch()
    closed = []
    close = os.close

    def fail(fd):
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        patch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))
        with pytest.raises(OSError, match="I/O error"):
            open_file(path)
    assert len(closed) == 1


def test_a_value_that_is_open_at_the_end_of_the_process_does_no_harm(tmp_path):
    value = file_value(tmp_path)
    code = (
        "import sys\n"
        "from encore.storage.file_value import FileValue\n"
        "stream = FileValue(sys.argv[1]).range(1)\n"
        "cycle = [stream]; cycle.append(cycle)\n"
        "assert stream.read(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, value.path],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == b""


# SourceValue


def test_a_source_value_shows_what_it_was_given(tmp_path):
    value = SourceValue(open_file(file_value(tmp_path).path), {"a": 1}, 1.0, 2.0, "e")
    assert (value.size, value.created, value.modified, value.etag) == (len(DATA), 1.0, 2.0, "e")
    os.unlink(tmp_path / "file")
    assert value.data.read() == DATA


# URLValue

SCRIPTS = {
    "/data": (
        [
            ("Content-Length", str(len(DATA))),
            ("ETag", '"abc"'),
            ("Last-Modified", "Thu, 01 Jan 1970 00:01:40 GMT"),
        ],
        DATA,
    ),
    "/unknown": ([], DATA),
    "/short": ([("Content-Length", str(len(DATA) + 10))], DATA),
    "/long": ([("Content-Length", "10")], DATA),
    "/lies": ([("Content-Length", "9" * 5000), ("Last-Modified", "yesterday")], b""),
    "/minus": (
        [
            ("Content-Length", "-5"),
            ("Last-Modified", "Thu, 01 Jan 9999999999999999999 00:00:00 GMT"),
        ],
        DATA,
    ),
    "/naive": ([("Content-Length", "0"), ("Last-Modified", "Thu, 01 Jan 1970 00:01:40")], b""),
    "/chunked": ([("Transfer-Encoding", "chunked")], b"5\r\nabcde\r\n5\r\nab"),
}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/drop":
            return
        if self.path not in SCRIPTS:
            self.send_error(404)
            return
        headers, body = SCRIPTS[self.path]
        self.server.seen.append(self.path)
        self.protocol_version = "HTTP/1.1" if self.path == "/chunked" else "HTTP/1.0"
        self.send_response(200)
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join(30)


@pytest.fixture
def opener():
    # Whatever proxies the machine has.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def at(server, opener):
    return lambda path, **kwargs: URLValue(
        f"http://127.0.0.1:{server.server_port}{path}", opener=opener, **kwargs
    )


def test_a_value_behind_http(at, server):
    value = at("/data", metadata={"a": 1})
    server.seen.clear()
    assert (value.size, value.modified, value.etag, value.created) == (
        len(DATA),
        100.0,
        '"abc"',
        None,
    )
    assert len(server.seen) == 1
    with value.data as stream:
        assert stream.read() == DATA
    with value.range(-5) as stream:
        assert stream.read() == DATA[-5:]
    assert b"".join(value.iterdata(100)) == DATA
    assert value.metadata == {"a": 1}


def test_nothing_is_fetched_before_it_is_asked_for(at, server):
    server.seen.clear()
    value = at("/data")
    assert "127.0.0.1" in repr(value)
    assert value.metadata == {}
    iterator = value.iterdata()
    assert server.seen == []
    iterator.close()
    store = DictMemoryStore(event_manager=EventManager())
    store.set("k", value)
    assert server.seen == ["/data"]


def test_a_server_may_tell_nothing(at):
    value = at("/unknown")
    assert (value.size, value.modified, value.etag) == (None, None, None)
    for start, end in ((None, None), (5, 10), (-10, -5), (700, 10**6), (5, 5)):
        with value.range(start, end) as stream:
            assert stream.read() == DATA[start:end]


def test_a_server_may_tell_nonsense(at):
    for path in ("/lies", "/minus"):
        value = at(path)
        assert (value.size, value.modified) == (None, None)
    assert at("/naive").modified == 100.0


def test_data_that_end_too_early_are_an_error_and_store_nothing(at):
    store = DictMemoryStore(event_manager=EventManager())
    for path in ("/short", "/chunked"):
        with pytest.raises(StoreError):
            store.set("k", at(path))
        assert not store.exists("k")
        with at(path).data as stream, pytest.raises(StoreError):
            stream.read()
    with at("/short").data as stream:
        assert stream.read(10) == DATA[:10]


def test_data_behind_the_promised_end_are_not_read(at):
    with at("/long").data as stream:
        assert stream.read() == DATA[:10]


def test_what_the_server_refuses_is_a_store_error(at):
    for path, use in (
        ("/missing", lambda value: value.data),
        ("/missing", lambda value: value.size),
        ("/missing", lambda value: list(value.iterdata())),
        ("/drop", lambda value: value.data),
        ("/has space", lambda value: value.data),
    ):
        with pytest.raises(StoreError) as caught:
            use(at(path))
        # A status is no exception that it could come from.
        assert path == "/missing" or caught.value.__cause__ is not None
    with pytest.raises(StoreError, match="404"):
        at("/missing").data  # noqa: B018 - it raises


def test_what_the_system_refuses_is_a_store_os_error(tmp_path, opener):
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as gone:
        port = gone.server_port
    with pytest.raises(StoreOSError) as caught:
        URLValue(f"http://127.0.0.1:{port}/", opener=opener).data  # noqa: B018 - it raises
    assert caught.value.errno
    with pytest.raises(StoreError):
        URLValue((tmp_path / "missing").as_uri()).data  # noqa: B018 - it raises


@pytest.mark.parametrize("url", [None, 5, b"file:///x", ["x"]])
def test_a_url_is_a_str(url):
    with pytest.raises(TypeError, match="url is a str"):
        URLValue(url)


def test_what_is_no_url_is_a_value_error():
    value = URLValue("not a url")
    with pytest.raises(ValueError, match="unknown url type"):
        value.data  # noqa: B018 - it raises


def test_a_repr_shows_no_secret():
    assert (
        repr(URLValue("http://user:secret@host/path?sig=secret#x"))
        == "URLValue('http://host/path?...')"
    )
    assert "secret" not in repr(URLValue("http://user:secret@[::1/x"))
    assert repr(URLValue("http://host/path")) == "URLValue('http://host/path')"


def test_a_file_url(tmp_path):
    value = URLValue(file_url(tmp_path))
    assert value.size == len(DATA)
    assert value.modified == pytest.approx(os.stat(tmp_path / "file").st_mtime, abs=1.0)
    with io.TextIOWrapper(value.data, "latin-1", newline="") as text:
        assert text.read() == DATA.decode("latin-1")


class FakeOpener:
    """An opener of a user, whose responses can do little."""

    def __init__(self, response, headers=()):
        self.calls = []
        self.response = response
        self.response.headers = Message()
        for name, text in dict(headers).items():
            self.response.headers[name] = text

    def open(self, url, timeout=None):
        self.calls.append((url, timeout))
        return self.response


class FakeResponse:
    closed = False

    def __init__(self, *answers):
        self.answers = list(answers)

    def read(self, size):
        answer = self.answers.pop(0) if self.answers else b""
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        self.closed = True


def test_an_opener_is_used_with_the_timeout():
    response = FakeResponse(b"abc")
    opener = FakeOpener(response)
    value = URLValue("x:y", opener=opener, timeout=7.0)
    with value.data as stream:
        assert stream.read() == b"abc"
    assert opener.calls == [("x:y", pytest.approx(7.0, abs=1))]
    assert response.closed
    URLValue("x:y", opener=opener).data.close()
    assert opener.calls[1] == ("x:y", pytest.approx(30.0, abs=1))


@pytest.mark.parametrize(
    ("answer", "error"),
    [(OSError("reset"), StoreError), (TimeoutError(110, "timed out"), StoreOSError), (StoreError("own"), StoreError),
     (KeyboardInterrupt(), KeyboardInterrupt), ("text", TypeError)],
    ids=repr,
)  # fmt: skip
def test_trouble_while_reading(answer, error):
    stream = URLValue("x:y", opener=FakeOpener(FakeResponse(b"a", answer))).data
    with stream, pytest.raises(error):
        stream.read()


def test_a_response_is_closed_with_its_stream_and_when_that_is_dropped():
    response = FakeResponse(b"abc")
    stream = URLValue("x:y", opener=FakeOpener(response)).data
    raw = stream.raw
    assert raw.readable()
    stream.close()
    raw.close()
    assert response.closed
    with pytest.raises(ValueError, match="closed"):
        raw.readinto(bytearray(1))
    response = FakeResponse(b"abc")
    stream = URLValue("x:y", opener=FakeOpener(response)).data
    del stream
    gc.collect()
    assert response.closed
