"""Streams cut into buffers, made of buffers, and parts of streams."""

from __future__ import annotations

import array
import gc
import io
import os
import shutil
import tempfile
import threading
import zipfile

import pytest

from encore.storage._files import reading, writing
from encore.storage._streams import (
    BUFFER_SIZE,
    BufferIteratorIO,
    CountingStream,
    as_bytes,
    buffer_iterator,
    buffers_of,
    check_bounds,
    check_buffer_size,
    check_readable,
    skip,
    slice_bounds,
    source_stream,
)
from encore.storage.errors import StoreOSError

DATA = bytes(range(256)) * 5


class Stream:
    """A stream with nothing but read(n), which does what it is told."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def read(self, size):
        self.asked.append(size)
        answer = self.answers.pop(0) if self.answers else b""
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Bytes:
    """A source in memory."""

    def __init__(self, data):
        self.data = data
        self.size = len(data)
        self.read = 0

    def pread(self, size, position, /):
        data = self.data[position : position + size]
        self.read += len(data)
        return data


class Index:
    def __init__(self, value):
        self.value = value

    def __index__(self):
        return self.value


def into(steps):
    """Make a progress callback that notes the steps."""
    return lambda *, step: steps.append(step)


# Arguments


@pytest.mark.parametrize("size", [1, 2**20, 10**30])
def test_buffer_sizes(size):
    assert check_buffer_size(size) == size


@pytest.mark.parametrize("size", [0, -1, -(10**5000)], ids=["0", "-1", "huge"])
def test_a_buffer_size_is_positive(size):
    with pytest.raises(ValueError, match="buffer_size is positive"):
        check_buffer_size(size)


@pytest.mark.parametrize(
    "size", [None, True, 1.0, "1", b"1", Index(1), [10**5000]], ids=lambda s: type(s).__name__
)
def test_a_buffer_size_is_an_int(size):
    with pytest.raises(TypeError, match="buffer_size is an int"):
        check_buffer_size(size)


@pytest.mark.parametrize(
    "stream", [None, b"x", "x", 1, [], object(), type("S", (), {"read": b""})()]
)
def test_what_cannot_be_read_is_a_type_error(stream):
    with pytest.raises(TypeError, match="readable binary stream"):
        check_readable(stream)
    with pytest.raises(TypeError, match="readable binary stream"):
        buffer_iterator(stream)


def test_bounds_are_those_of_slices():
    bounds = [
        None,
        0,
        1,
        2,
        3,
        4,
        5,
        10**30,
        -1,
        -2,
        -3,
        -4,
        -5,
        -(10**30),
        True,
        Index(2),
        Index(-2),
    ]
    for size in (0, 1, 4):
        data = bytes(range(size))
        for start in bounds:
            for end in bounds:
                begin, stop = slice_bounds(start, end, size)
                assert 0 <= begin <= stop <= size
                assert data[begin:stop] == data[start:end]
                assert data[slice(*check_bounds(start, end))] == data[start:end]
    assert check_bounds(Index(3), None) == (3, None)


@pytest.mark.parametrize(
    "bound", ["1", b"1", 1.0, [], (1,), 10.5e300, [10**5000]], ids=lambda b: type(b).__name__
)
def test_bounds_are_ints(bound):
    with pytest.raises(TypeError, match="start is an int or None"):
        check_bounds(bound, None)
    with pytest.raises(TypeError, match="end is an int or None"):
        slice_bounds(None, bound, 5)


class OddBytes(bytes):
    def __len__(self):
        return 99


@pytest.mark.parametrize(
    "data",
    [
        b"ab",
        bytearray(b"ab"),
        memoryview(b"ab"),
        memoryview(b"a-b-")[::2],
        memoryview(array.array("H", [0x6261])),
    ],
)
def test_bytes_like_data_become_bytes(data):
    if os.sys.byteorder == "little":
        assert as_bytes(data, "it") == b"ab"
    assert type(as_bytes(data, "it")) is bytes


def test_a_subclass_of_bytes_becomes_bytes():
    assert type(as_bytes(OddBytes(b"ab"), "it")) is bytes


@pytest.mark.parametrize(
    "data", [None, "text", 5, [1], array.array("B", b"x"), 10**5000], ids=lambda d: type(d).__name__
)
def test_nothing_else_becomes_bytes(data):
    with pytest.raises(TypeError, match="it bytes, not"):
        as_bytes(data, "it")


# buffer_iterator


@pytest.mark.parametrize("buffer_size", [1, 2, 7, 1279, 1280, 1281, 10**9])
def test_buffers_have_the_size_that_was_asked_for(buffer_size):
    steps = []
    buffers = list(buffer_iterator(io.BytesIO(DATA), buffer_size, into(steps)))
    assert b"".join(buffers) == DATA
    assert all(len(buffer) == buffer_size for buffer in buffers[:-1])
    assert steps == [min(n * buffer_size, len(DATA)) for n in range(1, len(buffers) + 1)]


def test_short_reads_are_fine_and_no_more_than_the_buffer_size_is_asked_for():
    stream = Stream(b"a", b"bcd", b"e")
    assert list(buffer_iterator(stream, 3)) == [b"a", b"bcd", b"e"]
    assert stream.asked == [3, 3, 3, 3]


def test_nothing_is_read_before_it_is_asked_for():
    stream = Stream(b"a", b"b")
    buffers = buffer_iterator(stream)
    assert stream.asked == []
    assert next(buffers) == b"a"
    assert stream.asked == [BUFFER_SIZE]


def test_a_stream_is_read_from_where_it_stands_and_left_open():
    stream = io.BytesIO(b"0123456789")
    stream.seek(4)
    assert list(buffer_iterator(stream, 100)) == [b"456789"]
    assert not stream.closed


@pytest.mark.parametrize("buffer_size", [1, len(DATA) - 1, len(DATA), len(DATA) + 1])
@pytest.mark.parametrize("position", [0, 1, len(DATA) - 1, len(DATA), len(DATA) + 5])
def test_buffers_of_a_stream_in_memory(buffer_size, position):
    for progress in (None, lambda step: None):
        stream = io.BytesIO(DATA)
        stream.seek(position)
        buffers = list(buffers_of(stream, buffer_size, progress))
        assert b"".join(buffers) == DATA[position:]
        assert all(0 < len(buffer) <= buffer_size for buffer in buffers)
        assert stream.tell() == max(position, len(DATA))
        assert not stream.closed


def test_little_data_in_memory_are_not_copied():
    data = bytes(1000)
    (buffer,) = buffers_of(io.BytesIO(data), BUFFER_SIZE, None)
    assert buffer is data


def test_what_is_derived_from_a_stream_in_memory_reads_in_its_own_way():
    class Slow(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 2))

    assert list(buffers_of(Slow(b"abcde"), 10, None)) == [b"ab", b"cd", b"e"]


def test_buffers_of_a_stream_that_is_closed():
    stream = io.BytesIO(b"abc")
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        list(buffers_of(stream, 10, None))


def test_bytes_like_buffers_become_bytes_of_their_own():
    shared = bytearray(b"one")
    buffers = []
    for buffer in buffer_iterator(Stream(shared, memoryview(shared))):
        shared[:] = b"two"
        buffers.append(buffer)
    assert buffers == [b"one", b"two"]
    assert {type(buffer) for buffer in buffers} == {bytes}


@pytest.mark.parametrize("answer", ["text", "", None, 0, [b"x"]], ids=repr)
def test_a_stream_that_gives_no_bytes_is_a_type_error(answer):
    buffers = buffer_iterator(Stream(b"ok", answer))
    assert next(buffers) == b"ok"
    with pytest.raises(TypeError, match=r"read\(\) must give bytes"):
        next(buffers)


@pytest.mark.parametrize(
    "error",
    [OSError("x"), ValueError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()],
    ids=repr,
)
def test_what_a_stream_raises_passes_through(error):
    buffers = buffer_iterator(Stream(b"ok", error))
    assert next(buffers) == b"ok"
    with pytest.raises(type(error)) as caught:
        next(buffers)
    assert caught.value is error


def test_too_much_is_taken_unless_there_is_a_limit():
    assert list(buffer_iterator(Stream(b"abcdef", b"g"), 2)) == [b"abcdef", b"g"]
    assert list(buffer_iterator(Stream(b"abcdef", b"g"), 2, max_bytes=4)) == [b"abcd"]


@pytest.mark.parametrize("limit", [0, 1, 6, 7, 8, 1279, 1280, 1281, 10**30])
@pytest.mark.parametrize("buffer_size", [1, 7, 5000])
def test_max_bytes(limit, buffer_size):
    stream = io.BytesIO(DATA)
    steps = []
    buffers = buffer_iterator(stream, buffer_size, into(steps), limit)
    assert b"".join(buffers) == DATA[:limit]
    assert stream.tell() == min(limit, len(DATA))
    assert steps[-1:] == ([stream.tell()] if limit else [])


@pytest.mark.parametrize(
    ("limit", "error"),
    [
        (-1, ValueError),
        (-(10**5000), ValueError),
        (1.5, TypeError),
        ("1", TypeError),
        (True, TypeError),
    ],
    ids=["-1", "huge", "float", "str", "bool"],
)
def test_max_bytes_is_a_number_of_bytes(limit, error):
    with pytest.raises(error, match="max_bytes"):
        buffer_iterator(io.BytesIO(), max_bytes=limit)


def test_what_progress_raises_passes_through():
    def progress(step):
        raise LookupError(step)

    with pytest.raises(LookupError, match="2"):
        next(buffer_iterator(io.BytesIO(b"ab"), progress=progress))


def test_skip():
    class Unseekable(io.BytesIO):
        def seekable(self):
            return False

        def seek(self, *args):
            raise OSError

    for make in (io.BytesIO, Unseekable):
        for count in (0, 1, 9, 10, 11, 10**6):
            stream = make(b"0123456789")
            skip(stream, count)
            assert stream.read() == b"0123456789"[count:]
    stream = Stream(b"012", b"3456")
    skip(stream, 5)
    assert stream.asked == [5, 2]


# Streams around streams


def test_a_counting_stream_reports_what_was_read():
    steps = []
    stream = CountingStream(Stream(b"ab", bytearray(b"c"), b""), into(steps))
    assert [stream.read(5), stream.read(5), stream.read(5)] == [b"ab", b"c", b""]
    assert steps == [2, 3]
    assert CountingStream(io.BytesIO(b"abc"), None).read(2) == b"ab"


@pytest.mark.parametrize("answer", ["text", None])
def test_a_counting_stream_counts_no_text(answer):
    steps = []
    with pytest.raises(TypeError):
        CountingStream(Stream(answer), into(steps)).read(1)
    assert steps == []


# BufferIteratorIO


def pieces():
    return iter([b"ab", b"", b"c", b"defg", b"", b"h"])


def test_reading_pieces():
    stream = BufferIteratorIO(pieces())
    assert stream.readable()
    assert not stream.writable()
    assert not stream.seekable()
    assert stream.read(1) == b"a"
    assert stream.read(0) == b""
    assert stream.read(100) == b"b"
    assert stream.read(buffer_size=2) == b"c"
    assert stream.read(3) == b"def"
    assert stream.read() == b"g"
    assert stream.read() == b"h"
    assert [stream.read(), stream.read(1), stream.read(-1), stream.readall()] == [b""] * 4


@pytest.mark.parametrize("size", [-1, None, -5])
def test_reading_to_the_end(size):
    stream = BufferIteratorIO(pieces())
    assert stream.read(1) == b"a"
    assert stream.read(size) == b"bcdefgh"
    assert stream.read(size) == b""


def test_a_huge_size_needs_no_memory():
    assert BufferIteratorIO(pieces()).read(10**15) == b"ab"


@pytest.mark.parametrize("size", ["1", 1.5, [], b""])
def test_a_size_is_an_int(size):
    with pytest.raises(TypeError):
        BufferIteratorIO(pieces()).read(size)


def test_readinto_takes_any_buffer():
    stream = BufferIteratorIO([b"abcdefgh"])
    small = bytearray(3)
    assert stream.readinto(small) == 3
    assert small == b"abc"
    words = array.array("H", [0, 0])
    assert stream.readinto(words) == 4
    assert words.tobytes() == b"defg"
    assert stream.readinto(bytearray()) == 0
    assert stream.readinto(small) == 1
    assert small == b"hbc"
    assert stream.readinto(small) == 0
    with pytest.raises(TypeError):
        stream.readinto(b"read-only")


def test_the_iterator_advances_only_as_far_as_is_read():
    given = []

    def generate():
        for piece in (b"ab", b"cd"):
            given.append(piece)
            yield piece

    stream = BufferIteratorIO(generate())
    assert stream.read(0) == b""
    assert stream.readinto(bytearray()) == 0
    assert given == []
    assert stream.read(1) == b"a"
    assert stream.read(5) == b"b"
    assert given == [b"ab"]


def test_lines_and_the_io_module():
    assert list(BufferIteratorIO([b"a\nb", b"c\n", b"d"])) == [b"a\n", b"bc\n", b"d"]
    assert (
        io.TextIOWrapper(io.BufferedReader(BufferIteratorIO([b"\xc3", b"\xa9"])), "utf-8").read()
        == "é"
    )
    target = io.BytesIO()
    shutil.copyfileobj(BufferIteratorIO(pieces()), target)
    assert target.getvalue() == b"abcdefgh"


@pytest.mark.parametrize("piece", ["text", None, 5])
def test_pieces_are_bytes(piece):
    with pytest.raises(TypeError, match="the iterator must give bytes"):
        BufferIteratorIO([piece]).read(1)


def test_what_the_iterator_raises_passes_through():
    error = KeyboardInterrupt()
    stream = BufferIteratorIO(buffer_iterator(Stream(b"a", error)))
    assert stream.read(1) == b"a"
    with pytest.raises(KeyboardInterrupt) as caught:
        stream.read(1)
    assert caught.value is error


def test_closing_closes_the_generator_once():
    closed = []

    def generate():
        try:
            yield b"ab"
        finally:
            closed.append(True)

    with BufferIteratorIO(generate()) as stream:
        stream.read(1)
        assert closed == []
    assert closed == [True]
    stream.close()
    assert closed == [True]
    assert stream.closed
    for method in (
        stream.read,
        lambda: stream.read(-1),
        stream.readline,
        lambda: stream.readinto(bytearray(1)),
    ):
        with pytest.raises(ValueError, match="closed"):
            method()
    # Not asked for anything, it is closed all the same.
    BufferIteratorIO(generate()).close()


def test_a_generator_that_fails_to_close_leaves_a_closed_stream():
    def generate():
        try:
            yield b"ab"
        finally:
            raise LookupError

    stream = BufferIteratorIO(generate())
    stream.read(1)
    with pytest.raises(LookupError):
        stream.close()
    assert stream.closed
    stream.close()


def test_a_refused_iterator_leaves_no_trace():
    with pytest.raises(TypeError):
        BufferIteratorIO(5)
    gc.collect()  # a failing finalizer would be reported by pytest


# Sources


@pytest.mark.parametrize("size", [0, 1, 5])
def test_parts_of_a_source_are_slices(size):
    data = bytes(range(65, 65 + size))
    bounds = [None, 0, 1, 2, 4, 5, 6, 10**30, -1, -2, -5, -6, -(10**30)]
    for start in bounds:
        for end in bounds:
            with source_stream(Bytes(data), start, end) as stream:
                assert stream.read() == data[start:end]


def test_a_small_part_reads_a_small_part():
    source = Bytes(bytes(10**7))
    assert len(source_stream(source, 5 * 10**6, 5 * 10**6 + 10).read()) == 10
    assert source.read == 10
    source_stream(source).read(10)
    assert source.read <= 100_000


def test_a_stream_of_a_source_is_a_real_io_object():
    stream = source_stream(Bytes(DATA), 3, 1000)
    part = DATA[3:1000]
    assert (stream.readable(), stream.seekable(), stream.writable()) == (True, True, False)
    assert stream.read(0) == b""
    assert stream.read(2) == part[:2]
    assert stream.tell() == 2
    assert stream.peek(1)[:1] == part[2:3]
    assert stream.seek(-7, io.SEEK_END) == 990
    assert stream.read() == part[-7:]
    assert stream.read() == stream.read(-1) == stream.read(5) == b""
    assert stream.seek(10) == 10
    assert stream.seek(5, io.SEEK_CUR) == 15
    assert stream.read1(4) == part[15:19]
    assert stream.seek(2000) == 2000
    assert stream.read() == b""
    with pytest.raises((ValueError, OSError)):
        stream.seek(-1)
    with pytest.raises(ValueError, match="whence"):
        stream.seek(0, 3)
    buffer = array.array("H", [0] * 4)
    stream.seek(0)
    assert stream.readinto(buffer) == 8
    assert buffer.tobytes() == part[:8]
    assert stream.raw.readinto(buffer) is not None
    with pytest.raises(io.UnsupportedOperation):
        stream.write(b"x")
    with stream:
        pass
    assert stream.closed
    for method in (stream.read, stream.tell, lambda: stream.seek(0), lambda: next(stream)):
        with pytest.raises(ValueError, match="closed"):
            method()


def test_the_raw_stream_of_a_source_keeps_the_contract_of_io():
    raw = source_stream(Bytes(b"abcdef"), 1).detach()
    words = array.array("H", [0])
    assert raw.readinto(words) == 2
    assert words.tobytes() == b"bc"
    assert raw.readinto(bytearray()) == 0
    assert raw.readall() == b"def"
    assert raw.seek(-1, io.SEEK_END) == 4
    with pytest.raises(ValueError, match="negative"):
        raw.seek(-9, io.SEEK_CUR)
    with pytest.raises(ValueError, match="whence"):
        raw.seek(0, 9)
    raw.close()
    for method in (lambda: raw.readinto(words), lambda: raw.seek(0)):
        with pytest.raises(ValueError, match="closed"):
            method()


def test_streams_of_a_source_work_with_the_standard_library():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("name", DATA)
    source = Bytes(b"head" + archive.getvalue())
    with zipfile.ZipFile(source_stream(source, 4)) as reader:
        assert reader.read("name") == DATA
    assert list(source_stream(Bytes(b"a\nb\nc"))) == [b"a\n", b"b\n", b"c"]
    assert io.TextIOWrapper(source_stream(Bytes("é\n".encode())), "utf-8").readline() == "é\n"


def test_one_stream_of_a_source_may_be_read_by_several_threads():
    data = bytes(range(256)) * 4000
    stream = source_stream(Bytes(data))
    parts, failures = [], []
    barrier = threading.Barrier(4)

    def read():
        try:
            barrier.wait(30)
            while part := stream.read(1000):
                parts.append(part)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert sum(map(len, parts)) == len(data)
    assert sorted(b"".join(parts)) == sorted(data)


# Files


def test_reading_a_path(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(DATA)
    for name in (path, str(path), os.fsencode(path)):
        with reading(name) as stream:
            assert stream.read() == DATA
        assert stream.closed


def test_reading_an_open_file_leaves_it_open_where_it_is():
    file = io.BytesIO(b"0123")
    file.seek(2)
    with reading(file) as stream:
        assert stream is file
        assert stream.read() == b"23"
    assert not file.closed
    only_read = Stream(b"x")
    with reading(only_read) as stream:
        assert stream.read(5) == b"x"


@pytest.mark.parametrize(
    "path", [None, 5, 1.5, [], object(), io.StringIO("text")], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("use", [reading, writing])
def test_what_is_no_file_is_a_type_error_at_once(path, use):
    with pytest.raises(TypeError):
        use(path)


def test_a_file_that_cannot_be_read_is_a_store_os_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing", tmp_path / "x" / "y", ""):
        with pytest.raises(StoreOSError), reading(path) as stream:
            stream.read()


@pytest.mark.skipif(
    not os.path.exists("/proc/self/mem"), reason="needs a file that opens and fails to be read"
)
def test_a_file_that_fails_while_it_is_read_is_a_store_os_error():
    with pytest.raises(StoreOSError) as caught, reading("/proc/self/mem") as stream:
        stream.read(10)
    assert caught.value.errno


def test_writing_a_path_replaces_it_at_the_end(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    path.chmod(0o640)
    with writing(path) as write:
        write(b"ne")
        write(bytearray(b"w"))
        write(memoryview(b"er"))
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"newer"
    assert path.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path) == ["x"]
    with writing(os.fsencode(tmp_path / "y")) as write:
        pass
    assert (tmp_path / "y").read_bytes() == b""


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError, GeneratorExit])
@pytest.mark.parametrize("old", [b"old", None])
def test_writing_that_fails_keeps_what_was_there(tmp_path, error, old):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)
    before = os.listdir(tmp_path)
    with pytest.raises(error), writing(path) as write:  # noqa: PT012 - the block is what fails
        write(b"new")
        raise error
    assert os.listdir(tmp_path) == before
    assert old is None or path.read_bytes() == old


@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
def test_a_refusing_system_keeps_what_was_there(tmp_path, monkeypatch, step):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, refuse)
        with pytest.raises(StoreOSError) as caught, writing(path) as write:
            write(b"new")
    assert caught.value.errno == 28
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    "name", ["n" * 255, "é" * 127, "\u4e00" * 85], ids=["ascii", "two bytes", "three bytes"]
)
def test_writing_to_a_name_as_long_as_names_can_be(tmp_path, name):
    path = tmp_path / name
    try:
        path.touch()
    except OSError:
        pytest.skip("the file system takes no such name")
    with writing(path) as write:
        write(b"data")
    assert path.read_bytes() == b"data"


def test_writing_through_a_link_keeps_the_link(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to("target")
    with writing(link) as write:
        write(b"new")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_writing_to_a_folder_or_into_none_is_a_store_os_error(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    for path in (tmp_path, tmp_path / "missing" / "x", loop, ""):
        with pytest.raises(StoreOSError) as caught, writing(path):
            pytest.fail("there is nothing to write to")
        # Not that of a temporary file.
        assert caught.value.filename == os.fspath(path or os.getcwd())
    assert os.listdir(tmp_path) == ["loop"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_devices_are_written_not_replaced():
    with writing(os.devnull) as write:
        write(b"gone")
    with pytest.raises(StoreOSError) as caught, writing("/dev/full") as write:
        write(b"too much")
    assert caught.value.errno == 28
    assert os.path.exists("/dev/full")


def test_an_open_file_is_written_to_where_it_is_and_left_open():
    file = io.BytesIO(b"0123456789")
    file.seek(2)
    with writing(file) as write:
        write(b"ab")
    assert file.getvalue() == b"01ab456789"
    assert not file.closed


def test_a_raw_file_may_take_little_at_once():
    class Slow(io.RawIOBase):
        taken = b""

        def writable(self):
            return True

        def write(self, data):
            piece = bytes(data[:3])
            self.taken += piece
            return len(piece)

    slow = Slow()
    with writing(slow) as write:
        write(b"0123456789")
    assert slow.taken == b"0123456789"


def test_a_raw_file_that_would_block_is_an_error_not_an_endless_loop():
    class Blocked(io.RawIOBase):
        def write(self, data):
            return None

    with pytest.raises(StoreOSError), writing(Blocked()) as write:
        write(b"x")


def test_an_object_that_only_writes_will_do():
    class Writer:
        written = b""

        def write(self, data):
            self.written += data

    writer = Writer()
    with writing(writer) as write:
        write(b"ab")
        write(b"c")
    assert writer.written == b"abc"


def test_temporary_files_of_the_standard_library_will_do():
    with tempfile.NamedTemporaryFile() as file, tempfile.SpooledTemporaryFile() as spooled:
        for each in (file, spooled):
            with writing(each) as write:
                write(b"abc")
            each.seek(1)
            with reading(each) as stream:
                assert stream.read() == b"bc"
