"""The static layout of the server: the index, plain and in gzip."""

import gzip
import json
import os

import pytest
from served_stores import FailingStore, OldStore, memory
from wsgi_client import WSGIClient

from encore.storage._server_static import accepts_gzip
from encore.storage.errors import StoreError, TemporaryError
from encore.storage.server import StoreApplication

GZIP = {"Accept-Encoding": "gzip"}


def client(store):
    return WSGIClient(StoreApplication(store, static=True))


def test_the_index_has_all_keys_and_metadata():
    contents = {"b": (b"1", {"n": 1}), "a/\n\u20ac": (b"", {"l": [None]}), "..": (b"", {})}
    for kind in (memory, OldStore):
        answer = client(kind(**contents)).get("/index.json")
        assert answer["Content-Type"] == "application/json"
        assert answer.json == {key: metadata for key, (_, metadata) in contents.items()}
        assert int(answer["Content-Length"]) == len(answer.body)
        assert answer["Cache-Control"] == "no-cache"


def test_an_empty_index_is_an_empty_object():
    answer = client(memory()).get("/index.json")
    assert answer.json == {}
    assert gzip.decompress(client(memory()).get("/index.json", GZIP).body) == answer.body


def test_the_etag_of_the_index_is_that_of_its_content():
    one, other = memory(a=b"1", b=b"2"), memory(b=b"2", a=b"1")
    etag = client(one).get("/index.json")["ETag"]
    assert client(other).get("/index.json")["ETag"] == etag
    assert client(one).get("/index.json", {"If-None-Match": etag}).status == 304
    one.set_metadata("a", {"n": 1})
    answer = client(one).get("/index.json", {"If-None-Match": etag})
    assert answer.status == 200
    assert answer["ETag"] != etag
    assert client(one).get("/index.json", {"If-Match": etag}).status == 412


def test_the_index_in_gzip_has_an_etag_of_its_own():
    get = client(memory(**{f"key {i}": (b"", {"n": i}) for i in range(100)}))
    plain, zipped = get.get("/index.json"), get.get("/index.json", GZIP)
    assert zipped["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain
    assert gzip.decompress(zipped.body) == plain.body
    assert len(zipped.body) < len(plain.body) / 2
    assert int(zipped["Content-Length"]) == len(zipped.body)
    assert plain["ETag"] != zipped["ETag"]
    assert plain["Vary"] == zipped["Vary"] == "Accept-Encoding"
    for headers in ({}, GZIP):
        for etag in (plain["ETag"], zipped["ETag"]):
            answer = get.get("/index.json", {"If-None-Match": etag, **headers})
            assert (answer.status, answer["Vary"]) == (304, "Accept-Encoding")
    # The same content is the same bytes.
    assert get.get("/index.json", GZIP).body == zipped.body


def test_a_large_index_is_streamed():
    contents = {f"key {i}": (b"", {"text": os.urandom(500).hex()}) for i in range(1000)}
    get = client(memory(**contents))
    plain, zipped = get.get("/index.json"), get.get("/index.json", GZIP)
    assert int(plain["Content-Length"]) == len(plain.body)
    chunks = list(zipped.chunks)
    zipped.close()
    assert len(chunks) > 1
    assert "Content-Length" not in zipped
    expected = {key: metadata for key, (_, metadata) in contents.items()}
    assert json.loads(plain.body) == json.loads(gzip.decompress(b"".join(chunks))) == expected
    head = get("HEAD", "/index.json", b"", GZIP)
    assert (head.body, head.all_headers) == (b"", zipped.all_headers)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip;q=0.001", True),
        ("gzip; q=0.5", True),
        ("gzip ; Q=0.5", True),
        ("gzip;q=0.5, identity", False),
        ("identity;q=0.5, gzip", True),
        ("identity;q=1, gzip;q=1", True),
        ("identity", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip, *;q=0", True),
        ("gzip;q=0, *", False),
        ("br", False),
        ("gzip;q=nonsense", False),
        ("gzip;q=1e3", False),
        ("gzip;q=-1", False),
        ("gzip;q=", False),
        ("gzip;q=.", False),
        ("gzip;q=99999", True),
        ("gzip;q=9999999999", False),
        ("gzipped", False),
        (";q=1,,gzip", True),
    ],
)
def test_gzip_is_sent_to_those_who_like_it(header, expected):
    assert accepts_gzip(header) is expected


class Damaged(FailingStore):
    """A store in which one record hides the others."""

    def __init__(self, error):
        super().__init__(store=memory(a=b"", b=b"", c=b""))
        self.damage = error

    def query(self, /, select=None, *, where=None, **kwargs):
        yield "a", {}
        raise self.damage

    def query_keys(self, /, *, where=None, **kwargs):
        return iter(("a", "b", "c"))

    def get_metadata(self, key, select=None):
        if key == "b":
            raise self.damage
        return {}


def test_one_damaged_record_hides_no_others():
    get = client(Damaged(StoreError("damaged", key="b")))
    assert get.get("/index.json").json == {"a": {}, "c": {}}


@pytest.mark.parametrize(
    ("error", "status"), [(TemporaryError(), 503), (StoreError("not connected"), 500)]
)
def test_a_store_that_fails_does_not_look_empty(error, status):
    assert client(Damaged(error)).get("/index.json").status == status
