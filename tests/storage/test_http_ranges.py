"""Parts of what a URL holds."""

from __future__ import annotations

import io

import pytest

from encore.storage._http_ranges import part_of, range_header
from encore.storage._http_response import Headers, Response
from encore.storage.errors import StoreError

DATA = bytes(range(100))


class Body:
    """A body in pieces."""

    def __init__(self, data):
        self._stream = io.BytesIO(data)
        self.closed = False

    def read(self, size):
        return self._stream.read(min(size, 7))

    def close(self):
        self.closed = True


def response(status, data, content_range=None, size=None):
    headers = Headers([] if content_range is None else [("Content-Range", content_range)])
    return Response(status, "http://h/", headers, Body(data), size)


@pytest.mark.parametrize(
    ("begin", "length", "text"),
    [(0, 10, "bytes=0-9"), (5, 1, "bytes=5-5"), (5, None, "bytes=5-"), (-5, None, "bytes=-5")],
)
def test_the_ends_of_http_are_inclusive(begin, length, text):
    assert range_header(begin, length) == text


@pytest.mark.parametrize(
    ("begin", "length"),
    [(0, 10), (5, None), (-5, None), (90, 50), (200, 5), (-200, None), (0, None)],
)
@pytest.mark.parametrize("size", [None, 100])
def test_a_server_that_sends_all(begin, length, size):
    end = None if length is None else begin + length
    with part_of(response(200, DATA, size=size), begin, length) as stream:
        assert stream.read() == DATA[begin:end]


@pytest.mark.parametrize(
    ("begin", "length", "first", "last", "total"),
    [
        (5, 10, 5, 14, "100"),
        (5, 10, 5, 14, "*"),
        (90, 50, 90, 99, "100"),
        (90, None, 90, 99, "100"),
        (-10, None, 90, 99, "100"),
        (-200, None, 0, 99, "100"),
    ],
)
def test_a_server_that_sends_the_part(begin, length, first, last, total):
    part = DATA[first : last + 1]
    answer = response(206, part, f"bytes {first}-{last}/{total}", len(part))
    with part_of(answer, begin, length) as stream:
        assert stream.read() == part


@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "",
        "bytes",
        "bytes 5-14",
        "items 5-14/100",
        "bytes 4-13/100",
        "bytes 5-13/100",
        "bytes 5-15/100",
        "bytes x-14/100",
        "bytes 5-14/x",
        "bytes \u0665-14/100",
        f"bytes 5-14/{'9' * 5000}",
        "bytes */100",
    ],
)
def test_another_part_than_was_asked_for_is_an_error(content_range):
    answer = response(206, DATA[5:15], content_range, 10)
    body = answer._body
    with pytest.raises(StoreError, match="another part"):
        part_of(answer, 5, 10)
    assert body.closed


def test_another_length_than_the_part_has_is_an_error():
    with pytest.raises(StoreError, match="another part"):
        part_of(response(206, DATA[5:15], "bytes 5-14/100", 9), 5, 10)


def test_behind_the_end_there_is_nothing():
    answer = response(416, b"too far", "bytes */100")
    assert part_of(answer, 500, 10).read() == b""
    assert answer.closed
