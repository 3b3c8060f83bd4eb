"""What is sent to a server."""

from __future__ import annotations

import io
import os

import pytest

from encore.storage._request_body import RequestBody
from encore.storage._spool import spooled
from encore.storage.errors import StoreError, StoreOSError

LARGE = bytes(range(256)) * 400


class Stream:
    """Nothing but read(n)."""

    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.asked = []

    def read(self, size):
        self.asked.append(size)
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, BaseException):
            raise piece
        return piece


def body_of(stream, size=None, buffer_size=1000, progress=None, reopen=None):
    return RequestBody(stream, size, buffer_size, progress, reopen)


def test_little_data_are_at_hand():
    body = body_of(Stream(b"a", b"bc", b"d"))
    body.put_before(b"{}")
    assert body.at_hand() == b"{}abcd"


def test_what_is_at_hand_does_not_count_what_comes_before():
    body = body_of(Stream(b"a"))
    body.put_before(LARGE)
    assert body.at_hand() == LARGE + b"a"


def test_much_is_streamed_from_its_beginning():
    pieces = [LARGE[n : n + 1000] for n in range(0, len(LARGE), 1000)]
    body = body_of(Stream(*pieces))
    body.put_before(b"{}")
    assert body.at_hand() is None
    assert body.size is None
    assert body.read(5) == b"{}" + LARGE[:3]
    assert body.tell() == 5
    assert body.read() == LARGE[3:]
    assert body.read(1) == b""


def test_the_size_of_files_and_bytes_in_memory_is_known(tmp_path):
    stream = io.BytesIO(LARGE)
    stream.seek(10)
    assert body_of(stream).size == len(LARGE) - 10
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    for buffering in (0, -1):
        with open(path, "rb", buffering=buffering) as file:
            file.seek(7)
            assert body_of(file).size == len(LARGE) - 7
    assert body_of(Stream(LARGE)).size is None
    assert body_of(Stream(LARGE), 5).size == 5


def test_what_the_kernel_makes_up_has_no_size():
    with open(os.devnull, "rb") as file:
        assert body_of(file).size is None


@pytest.mark.parametrize("size", [len(LARGE) - 1, len(LARGE) + 1])
def test_another_size_than_was_said_is_an_error(size):
    body = body_of(Stream(LARGE), size)
    assert body.at_hand() is None
    with pytest.raises(StoreError, match=str(size)) as caught:
        body.read()
    assert body.failure is caught.value
    assert not body.seekable()


@pytest.mark.parametrize("error", [OSError(5, "broken"), KeyboardInterrupt()])
def test_what_the_stream_raises_is_kept(error):
    body = body_of(Stream(b"a", error))
    with pytest.raises(type(error)):
        body.at_hand()
    assert body.failure is error


def test_text_is_a_failure_of_the_stream():
    body = body_of(Stream("text"))
    with pytest.raises(TypeError):
        body.read(10)
    assert isinstance(body.failure, TypeError)


def test_no_more_is_asked_of_the_stream_than_the_buffer_takes():
    stream = Stream(*[b"x" * 100] * 3)
    body_of(stream, buffer_size=100).read()
    assert set(stream.asked) == {100}


def test_a_seekable_stream_can_be_given_again():
    stream = io.BytesIO(b"skipped" + LARGE)
    stream.seek(7)
    steps = []

    def progress(step):
        steps.append(step)

    body = body_of(stream, buffer_size=50_000, progress=progress)
    body.put_before(b"{}")
    assert body.seekable()
    assert body.read(60_000) == (b"{}" + LARGE)[:60_000]
    assert body.seek(0) == 0
    assert body.tell() == 0
    assert body.read() == b"{}" + LARGE
    assert steps == [50_000, 100_000, len(LARGE)]


def test_a_value_is_opened_again():
    opened = []

    def reopen():
        opened.append(io.BytesIO(LARGE))
        return opened[-1]

    with body_of(Stream(LARGE), len(LARGE), reopen=reopen) as body:
        assert body.read(10) == LARGE[:10]
        body.seek(0)
        assert body.read() == LARGE
        body.seek(0)
        assert opened[0].closed
        assert body.read() == LARGE
    assert opened[1].closed


def test_what_cannot_be_given_again_is_not_given_in_part():
    body = body_of(Stream(LARGE))
    assert body.at_hand() is None
    # Nothing of it has been sent.
    body.seek(0)
    body.read(1)
    assert not body.seekable()
    with pytest.raises(OSError, match="again"):
        body.seek(0)


def test_there_is_no_going_elsewhere():
    body = body_of(io.BytesIO(LARGE))
    body.read(10)
    for arguments in [(5,), (0, 1), (0, 2)]:
        with pytest.raises(OSError, match="again"):
            body.seek(*arguments)


def test_a_stream_that_refuses_to_go_back():
    class Closing(io.BytesIO):
        def seek(self, *arguments):
            raise LookupError

    body = body_of(Closing(LARGE), len(LARGE))
    body.read(10)
    with pytest.raises(OSError, match="again"):
        body.seek(0)


def test_a_spooled_body_is_the_same_and_can_be_given_again():
    stream = Stream(LARGE, LARGE)
    with body_of(stream).spooled() as body:
        assert stream.pieces == []
        assert body.size == 2 * len(LARGE)
        assert body.read() == LARGE * 2
        body.seek(0)
        assert body.read() == LARGE * 2


def test_spooled_in_memory_or_in_a_file():
    for limit in (len(LARGE), len(LARGE) - 1):
        file, size = spooled(io.BytesIO(LARGE), limit)
        with file:
            assert size == len(LARGE)
            assert file.read() == LARGE
            assert isinstance(file, io.BytesIO) is (limit == len(LARGE))


def test_no_room_for_the_file(monkeypatch):
    import tempfile

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(StoreOSError) as caught:
        spooled(io.BytesIO(LARGE), 10)
    assert caught.value.errno == 28
