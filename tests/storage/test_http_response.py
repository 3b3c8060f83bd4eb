"""What a Response does for those who wrap it."""

import io

from encore.storage._http_response import Headers, Response


class Pieces:
    """A body, and how much was asked of it at once."""

    def __init__(self, size):
        self.left = size
        self.asked = []

    def read(self, size, /):
        self.asked.append(size)
        count = min(size, self.left)
        self.left -= count
        return bytes(count)

    def close(self):
        pass


def test_a_buffered_stream_reads_a_large_body_to_its_end_in_large_pieces():
    size = 5 * 2**20
    body = Pieces(size)
    stream = io.BufferedReader(Response(200, "http://h/", Headers(), body, size), 8192)
    assert stream.read(10) == bytes(10)
    body.asked.clear()
    assert stream.read() == bytes(size - 10)
    assert len(body.asked) < 10


def test_a_small_body_is_read_with_one_call():
    body = Pieces(100)
    stream = io.BufferedReader(Response(200, "http://h/", Headers(), body, 100), 101)
    assert stream.read() == bytes(100)
    assert len(body.asked) == 1
