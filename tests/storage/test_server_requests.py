"""What a request may hold: bodies of wrong length, JSON of every kind, headers that are there twice."""

import io
import json

import pytest
from served_stores import FailingStore, OldStore, memory
from wsgi_client import ChunkedInput, WSGIClient

from encore.storage._server_requests import Body, Request, RequestError
from encore.storage.errors import StoreError
from encore.storage.server import StoreApplication

LARGE = 2**19


def client(store, /, **options):
    return WSGIClient(StoreApplication(store, **options))


class Failing(io.BytesIO):
    """A connection that breaks when all that has come is read."""

    error = ConnectionResetError()

    def read(self, size=-1):
        data = super().read(size)
        if not data and size:
            raise self.error
        return data


class Slow(Failing):
    error = TimeoutError()


class BrokenChunks(Failing, ChunkedInput):
    pass


class Pieces(ChunkedInput):
    """What comes a few bytes at a time."""

    def read(self, size=-1):
        return super().read(min(size, 7))


# Lengths


@pytest.mark.parametrize("size", [3, LARGE])
@pytest.mark.parametrize("kind", [io.BytesIO, Failing])
@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("PUT", "/keys/k/data", {}),
        ("PUT", "/keys/k/value", {"Encore-Metadata-Length": "2"}),
        ("PUT", "/keys/k/metadata", {}),
        ("POST", "/keys/k/metadata", {}),
        ("PUT", "/keys/new/data", {}),
        ("PUT", "/keys/new/value", {"Encore-Metadata-Length": "2"}),
    ],
)
@pytest.mark.parametrize("store", [memory, OldStore])
def test_a_body_that_is_too_short_changes_nothing(store, size, kind, method, target, headers):
    store = store(k=(b"old", {"n": 1}))
    body = b"{}" + bytes(size - 2)
    answer = client(store)(method, target, kind(body), {"Content-Length": str(size + 1), **headers})
    assert (answer.status, answer.json["kind"]) == (400, "ValueError")
    assert list(store.query()) == [("k", {"n": 1})]
    assert store.to_bytes("k") == b"old"


@pytest.mark.parametrize("size", [3, LARGE])
def test_chunks_that_break_off_change_nothing(size):
    store = memory(k=b"old")
    answer = client(store).put("/keys/k/data", BrokenChunks(bytes(size)))
    assert answer.status == 400
    assert store.to_bytes("k") == b"old"


@pytest.mark.parametrize("size", [3, LARGE])
def test_a_body_that_takes_too_long_changes_nothing(size):
    store = memory(k=b"old")
    answer = client(store).put("/keys/k/data", Slow(bytes(size)), {"Content-Length": "1000000"})
    assert answer.status == 408
    assert store.to_bytes("k") == b"old"


def test_a_store_that_makes_another_error_of_a_broken_body_does_not_hide_it():
    class Swallowing(FailingStore):
        def _write(self, call, method, key, /, *args, **conditions):
            try:
                super()._write(call, method, key, *args, **conditions)
            except Exception as error:
                raise StoreError("failed") from error

    answer = client(Swallowing()).put(
        "/keys/k/data", io.BytesIO(bytes(LARGE)), {"Content-Length": str(2 * LARGE)}
    )
    assert answer.status == 400


def test_what_comes_after_the_body_is_not_read():
    store = memory()
    body = io.BytesIO(b"data" + b"GET / HTTP/1.1")
    assert client(store).put("/keys/k/data", body, {"Content-Length": "4"}).status == 201
    assert store.to_bytes("k") == b"data"
    assert body.tell() == 4


@pytest.mark.parametrize("size", [0, 1, 1000, LARGE])
def test_chunks_are_read_to_their_end(size):
    store = memory()
    get = client(store)
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert get.put("/keys/k/data", ChunkedInput(data)).status == 201
    assert store.to_bytes("k") == data
    metadata = b'{"n":1}'
    headers = {"Encore-Metadata-Length": str(len(metadata))}
    kind = Pieces if size <= 1000 else ChunkedInput
    assert get.put("/keys/k/value", kind(metadata + data), headers).status == 200
    assert (store.to_bytes("k"), store.get_metadata("k")) == (data, {"n": 1})
    assert get.put("/keys/k/metadata", kind(b"{}")).status == 200


@pytest.mark.parametrize(
    ("length", "status"),
    [
        ("", 201),  # as some servers say that there is none
        ("0", 201),
        ("5", 201),
        (" 5 ", 201),
        ("-1", 400),
        ("+5", 400),
        ("5, 5", 400),
        ("5,5", 400),
        ("0x5", 400),
        ("5.0", 400),
        ("1_0", 400),
        ("\u0665", 400),
        ("five", 400),
        ("9" * 20, 400),
        ("9" * 5000, 400),
        ("9" * 19, 413),
    ],
)
def test_a_content_length_is_a_number(length, status):
    store = memory()
    answer = client(store).put("/keys/k/data", io.BytesIO(b"12345"), {"Content-Length": length})
    assert answer.status == status
    assert store.exists("k") == (status == 201)


def test_chunks_that_the_server_does_not_take_apart_are_refused():
    store = memory()
    answer = client(store).put(
        "/keys/k/data", io.BytesIO(b"1\r\na\r\n0\r\n\r\n"), {"Transfer-Encoding": "chunked"}
    )
    assert answer.status == 411
    assert not store.exists("k")


def test_bodies_are_bounded():
    store = memory()
    get = client(store, max_body=10, max_json=5)
    assert get.put("/keys/k/data", bytes(10)).status == 201
    for body in (bytes(11), ChunkedInput(bytes(11)), Pieces(bytes(11))):
        assert get.put("/keys/k/data", body).status == 413
    assert get.put("/keys/k/metadata", b'{"":1}').status == 413
    assert get.put("/keys/k/metadata", ChunkedInput(b'{"":1}')).status == 413
    assert get.post("/query", b'{"a":1}').status == 413
    six = {"Encore-Metadata-Length": "6"}
    assert get.put("/keys/k/value", b'{"":1}data', six).status == 413
    assert store.to_bytes("k") == bytes(10)


@pytest.mark.parametrize("header", [{"Content-Encoding": "gzip"}, {"Content-Range": "bytes 0-1/9"}])
def test_a_body_is_stored_as_it_is_or_not_at_all(header):
    store = memory()
    assert client(store).put("/keys/k/data", b"data", header).status in (400, 415)
    assert not store.exists("k")
    assert client(store).put("/keys/k/data", b"1", {"Content-Encoding": "Identity"}).status == 201


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (None, 400),
        ("", 400),
        ("-1", 400),
        ("2, 2", 400),
        ("7", 400),  # more than there is
        ("3", 400),  # no JSON
        ("0", 400),
        ("2", 201),
    ],
)
def test_the_length_of_the_metadata_is_checked(length, status):
    store = memory()
    headers = {} if length is None else {"Encore-Metadata-Length": length}
    for body in (b"{}data", ChunkedInput(b"{}data")):
        answer = client(store).put("/keys/k/value", body, headers)
        assert answer.status == status
        status = status if status != 201 else 200
    assert store.exists("k") == (status == 200)


@pytest.mark.parametrize("limit", ["-1", "a", "1, 2", "9" * 20])
def test_the_limit_of_the_data_is_a_number(limit):
    answer = client(memory(k=b"")).get("/keys/k/value", {"Encore-Data-Limit": limit})
    assert answer.status == 400


# JSON


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}x", "nothing", "'a'", "{'a': 1}", '{"a": NaN}', '{"a": Infinity}'),
        *('{"a": -Infinity}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"\\udc00": 1}', '{"a": 01}'),
        *("[]", "null", "1", '"text"', '{"a": "\t"}', f'{{"a": {"9" * 5000}}}'),
        '{"a":' * 150 + "[" * 60 + "]" * 60 + "}" * 150,
        "[" * 100_000,
        '{"a":' * 100_000,
        b"\xff\xfe{\x00}\x00",
        b"\xff",
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_metadata_that_are_no_json_object_change_nothing(text):
    store = memory(k=(b"old", {"n": 1}))
    body = text if isinstance(text, bytes) else text.encode()
    get = client(store)
    for method in ("PUT", "POST"):
        answer = get(method, "/keys/k/metadata", body)
        assert (answer.status, answer.json["kind"] in ("ValueError", "TypeError")) == (400, True)
    answer = get.put("/keys/k/value", body, {"Encore-Metadata-Length": str(len(body))})
    assert answer.status == 400
    assert store.get_metadata("k") == {"n": 1}


def test_all_metadata_that_are_json_go_there_and_back():
    store = memory()
    get = client(store)
    metadata = {
        "": None,
        "a": [True, False, 0, -1, 2**70, 1.5, 1e300, "\0\n\u2028ä\U0001f600", {}],
        **{f"name {i}": "x" * 300 for i in range(3000)},
        "deep": json.loads("[" * 150 + "]" * 150),
    }
    assert get.put("/keys/k/metadata", metadata).json["metadata"] == metadata
    assert get.get("/keys/k/metadata").json == metadata
    assert store.get_metadata("k") == metadata


# The body as a stream


def test_a_body_is_read_as_a_stream():
    body = Body(io.BytesIO(b"12345"), 4, 100)
    assert body.read(0) == b""
    assert body.read(2) == b"12"
    assert (body.size, body.missing) == (4, 2)
    assert body.read() == b"34"
    assert body.read(5) == b""
    body = Body(io.BytesIO(b"12345"), None, 100)
    assert (body.read(None), body.read(1)) == (b"12345", b"")


def test_a_broken_body_stays_broken():
    body = Body(io.BytesIO(b"1"), 2, 100)
    assert body.read(5) == b"1"
    for _ in range(2):
        with pytest.raises(RequestError, match="too early"):
            body.read(5)
    assert body.error.status == 400


def test_a_path_that_no_server_should_give_is_refused():
    request = Request({"REQUEST_METHOD": "GET", "PATH_INFO": "/\u20ac"})
    with pytest.raises(RequestError):
        request.decode_path()


def test_a_path_that_is_not_that_of_the_key_is_refused():
    store = memory(a=b"data")
    client = WSGIClient(StoreApplication(store))
    for target, quoted in (
        ("/keys/a/data", "a%2F%2E"),
        ("/keys/a/data", ""),
        ("/keys/a/data", "a%2Fdata"),
        ("/keys/a/data/data", "a"),
        ("/keys/a/other", "a"),
        ("/data/a", "b"),
        ("/data", "%2E%2E"),
        ("/index.json", "index.json"),
    ):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            answer = client(method, target, headers={"Encore-Key": quoted})
            if method == "DELETE" and quoted == "a%2Fdata":
                assert answer.status == 404
                continue
            assert answer.status == 400
            if method != "HEAD":
                assert answer.json["kind"] == "StoreError"
    assert store.to_bytes("a") == b"data"
    for target, quoted in (("/keys/a/data", "a"), ("/data/a", "%61"), ("/keys/a/data", "a")):
        assert client.get(target, {"Encore-Key": quoted}).body == b"data"
    assert (
        client.put("/keys/%2E%2E%2F%C3%A9/data", b"", {"Encore-Key": "..%2F%C3%A9"}).status == 201
    )
    assert client.delete("/keys/%2E%2E%2F%C3%A9", {"Encore-Key": "..%2F%C3%A9"}).status == 200
