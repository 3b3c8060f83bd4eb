"""Conditional requests and ranges: the tables of RFC 9110."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest
from served_stores import FailingStore, OldStore, OldValue, OwnedStore, memory
from wsgi_client import WSGIClient

from encore.storage._etags import format_etag
from encore.storage._server_conditions import format_date
from encore.storage._server_ranges import parse_range
from encore.storage._server_requests import RequestError
from encore.storage.server import StoreApplication

CHANGED = 1_000_000_000.75
SAME = formatdate(CHANGED, usegmt=True)
BEFORE = formatdate(CHANGED - 1, usegmt=True)
AFTER = formatdate(CHANGED + 1, usegmt=True)


def store_of(data=b"0123456789"):
    """A store whose key `k` was changed long ago."""
    store = memory()
    store._clock = lambda: CHANGED
    store.set("k", (io.BytesIO(data), {}))
    del store._clock
    return store


@pytest.fixture
def store():
    return store_of()


@pytest.fixture
def get(store):
    return WSGIClient(StoreApplication(store))


def filled(headers, etag):
    return {name: value.replace("ETAG", etag) for name, value in headers.items()}


# Reading

TABLE = [
    ({}, 200),
    ({"If-Match": '"ETAG"'}, 200),
    ({"If-Match": "*"}, 200),
    ({"If-Match": '"other", "ETAG"'}, 200),
    ({"If-Match": '"other","ETAG",'}, 200),
    ({"If-Match": '"other"'}, 412),
    ({"If-Match": 'W/"ETAG"'}, 412),  # the strong comparison
    ({"If-Match": '"ETAG'}, 400),
    ({"If-Match": "ETAG"}, 400),
    ({"If-Match": ""}, 400),
    ({"If-Match": '*, "ETAG"'}, 400),
    ({"If-Match": '"ETAG" "other"'}, 400),
    ({"If-None-Match": '"ETAG"'}, 304),
    ({"If-None-Match": 'W/"ETAG"'}, 304),  # the weak comparison
    ({"If-None-Match": '"other", W/"ETAG"'}, 304),
    ({"If-None-Match": "*"}, 304),
    ({"If-None-Match": '"other"'}, 200),
    ({"If-None-Match": '"a,b", "c"'}, 200),
    ({"If-Modified-Since": SAME}, 304),
    ({"If-Modified-Since": AFTER}, 304),
    ({"If-Modified-Since": BEFORE}, 200),
    ({"If-Modified-Since": "nonsense"}, 200),
    ({"If-Modified-Since": ""}, 200),
    ({"If-Modified-Since": "Sunday, 09-Sep-01 01:46:40 GMT"}, 304),  # RFC 850
    ({"If-Modified-Since": "Sun Sep  9 01:46:40 2001"}, 304),  # asctime
    ({"If-Modified-Since": "Sun, 09 Sep 2001 01:46:40 +9999999999"}, 200),
    ({"If-Unmodified-Since": SAME}, 200),
    ({"If-Unmodified-Since": AFTER}, 200),
    ({"If-Unmodified-Since": BEFORE}, 412),
    ({"If-Unmodified-Since": "nonsense"}, 200),
    # Which comes first (section 13.2.2)
    ({"If-Match": '"ETAG"', "If-Unmodified-Since": BEFORE}, 200),
    ({"If-Match": '"other"', "If-Unmodified-Since": AFTER}, 412),
    ({"If-None-Match": '"other"', "If-Modified-Since": AFTER}, 200),
    ({"If-None-Match": '"ETAG"', "If-Modified-Since": BEFORE}, 304),
    ({"If-Match": '"ETAG"', "If-None-Match": '"ETAG"'}, 304),
    ({"If-Match": '"other"', "If-None-Match": '"ETAG"'}, 412),
    ({"If-Unmodified-Since": BEFORE, "If-None-Match": '"ETAG"'}, 412),
    ({"If-Unmodified-Since": SAME, "If-Modified-Since": SAME}, 304),
]


@pytest.mark.parametrize(("headers", "status"), TABLE, ids=str)
@pytest.mark.parametrize("part", ["data", "metadata", "value"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_under_a_condition(get, store, method, part, headers, status):
    value = store.get("k")
    answer = get(method, f"/keys/k/{part}", b"", filled(headers, value.etag))
    assert answer.status == status
    if status == 304:
        assert answer.body == b""
        assert answer["ETag"] == f'"{value.etag}"'
        assert "Content-Type" not in answer
        assert "Content-Length" not in answer
    if status == 412 and method == "GET":
        assert answer.json["kind"] == "PreconditionError"


@pytest.mark.parametrize("headers", [{"If-Match": "*"}, {"If-None-Match": "*"}])
def test_a_condition_does_not_hide_that_there_is_nothing(get, headers):
    assert get.get("/keys/other/data", headers).status == 404


def test_without_etags_there_is_nothing_to_match():
    get = WSGIClient(StoreApplication(OldStore(k=b"data")))
    assert "ETag" not in get.get("/keys/k/data")
    assert get.get("/keys/k/data", {"If-Match": '"a"'}).status == 412
    assert get.get("/keys/k/data", {"If-Match": "*"}).status == 200
    assert get.get("/keys/k/data", {"If-None-Match": '"a"'}).status == 200
    assert get.get("/keys/k/data", {"If-Modified-Since": AFTER}).status == 200
    assert get.get("/keys/k/data", {"If-Unmodified-Since": BEFORE}).status == 200


# Writing

WRITES = [
    ("PUT", "/keys/k/data", b"new"),
    ("PUT", "/keys/k/value", b"{}new"),
    ("PUT", "/keys/k/metadata", b'{"n": 1}'),
    ("POST", "/keys/k/metadata", b'{"n": 1}'),
    ("DELETE", "/keys/k", b""),
]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Match": '"ETAG"'}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": 'W/"ETAG"'}, 412),
        ({"If-Match": '"other", "ETAG"'}, 200),
        ({"If-Match": '"other", W/"ETAG"'}, 412),
        ({"If-Match": "*"}, 200),
        ({"If-Match": "ETAG"}, 400),
        ({"If-None-Match": "*"}, 412),
        ({"If-None-Match": '"ETAG"'}, 412),
        ({"If-None-Match": 'W/"ETAG"'}, 412),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-None-Match": "ETAG"}, 400),
        ({"If-Unmodified-Since": SAME}, 200),
        ({"If-Unmodified-Since": BEFORE}, 412),
        ({"If-Unmodified-Since": "nonsense"}, 200),
        ({"If-Modified-Since": AFTER}, 200),
        ({"If-Match": '"ETAG"', "If-Unmodified-Since": BEFORE}, 200),
        ({"If-Match": '"ETAG"', "If-None-Match": '"ETAG"'}, 412),
        ({"If-Match": '"ETAG"', "If-None-Match": '"other"'}, 200),
    ],
    ids=str,
)
@pytest.mark.parametrize(("method", "target", "body"), WRITES)
def test_writing_under_a_condition(get, store, headers, status, method, target, body):
    etag = store.get("k").etag
    headers = {"Encore-Metadata-Length": "2", **filled(headers, etag)}
    assert get(method, target, body, headers).status == status
    is_changed = not store.exists("k") or store.get("k").etag != etag
    assert is_changed == (status == 200)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": "*"}, 201),
        ({"If-None-Match": '"other"'}, 201),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": '"other", "another"'}, 412),
        ({"If-Match": "*"}, 412),
        ({"If-Unmodified-Since": BEFORE}, 201),
    ],
    ids=str,
)
def test_writing_a_new_key_under_a_condition(get, store, headers, status):
    assert get.put("/keys/new/data", b"1", headers).status == status
    assert store.exists("new") == (status == 201)


@pytest.mark.parametrize("headers", [{"If-Match": '"a"'}, {"If-Match": "*"}])
def test_deleting_what_is_not_there_under_a_condition(get, headers):
    assert get.delete("/keys/new", headers).status == 412
    assert get.delete("/keys/new").status == 404


@pytest.mark.parametrize(
    "headers", [{"If-Match": "*"}, {"If-None-Match": "*"}, {"If-Unmodified-Since": BEFORE}]
)
@pytest.mark.parametrize(("method", "target", "body"), WRITES)
def test_a_store_without_conditional_writes_says_so(method, target, body, headers):
    store = OldStore(k=b"data")
    headers = {"Encore-Metadata-Length": "2", **headers}
    answer = WSGIClient(StoreApplication(store))(method, target, body, headers)
    assert (answer.status, answer.json["kind"]) == (501, "NotImplementedError")
    assert store.to_bytes("k") == b"data"


def test_a_store_without_etags_can_keep_to_none():
    class Claiming(OldStore):
        def info(self):
            return {**super().info(), "conditional": True}

    get = WSGIClient(StoreApplication(Claiming(k=b"data")))
    assert get.put("/keys/k/data", b"new", {"If-Match": "*"}).status == 501
    assert get.get("/keys/k/data").body == b"data"


def test_a_condition_that_does_not_hold_leaves_the_body_unread(get):
    body = io.BytesIO(bytes(2**20))
    headers = {"If-None-Match": "*", "Content-Length": str(2**20)}
    assert get.put("/keys/k/data", body, headers).status == 412
    assert body.tell() == 0


def test_what_was_looked_at_must_still_be_there_when_it_is_written():
    """Where a list of etags is compared here, the store is told the one that it had."""

    class Racing(FailingStore):
        def _write(self, call, method, key, /, *args, **conditions):
            self.store.set_metadata(key, {"racer": True})
            super()._write(call, method, key, *args, **conditions)

    for headers in (
        {"If-Match": '"a", "ETAG"'},
        {"If-Match": "*"},
        {"If-None-Match": '"a"'},
        {"If-Unmodified-Since": AFTER},
    ):
        inner = store_of()
        given = filled(headers, inner.get("k").etag)
        answer = WSGIClient(StoreApplication(Racing(store=inner))).put(
            "/keys/k/metadata", b"{}", given
        )
        assert answer.status == 412
        assert inner.get_metadata("k") == {"racer": True}


def test_a_new_key_that_somebody_else_has_made_meanwhile_is_kept():
    class Racing(FailingStore):
        def _write(self, call, method, key, /, *args, **conditions):
            self.store.set_metadata(key, {"racer": True})
            super()._write(call, method, key, *args, **conditions)

    inner = memory()
    get = WSGIClient(StoreApplication(Racing(store=inner)))
    assert get.put("/keys/k/metadata", b"{}", {"If-None-Match": '"a"'}).status == 412
    assert inner.get_metadata("k") == {"racer": True}


def test_permissions_have_no_conditions():
    get = WSGIClient(StoreApplication(OwnedStore(k=b"")))
    assert get.put("/keys/k/auth", {"owned": ["me"]}, {"If-Match": "*"}).status == 501


def in_threads(count, function):
    """Call a function in so many threads that begin together; return what it returned."""
    barrier = threading.Barrier(count, timeout=20)
    with ThreadPoolExecutor(count) as pool:

        def call(number):
            barrier.wait()
            return function(number)

        return list(pool.map(call, range(count), timeout=20))


def test_of_several_writers_with_one_condition_one_wins(get, store):
    for key, condition in (
        ("new", {"If-None-Match": "*"}),
        ("k", {"If-Match": f'"{store.get("k").etag}"'}),
        ("newer", {"If-None-Match": '"a"'}),
    ):
        statuses = in_threads(
            8,
            lambda n, key=key, given=condition: (
                get.put(f"/keys/{key}/data", b"%d" % n, given).status
            ),
        )
        winners = [n for n, status in enumerate(statuses) if status in (200, 201)]
        if key != "newer":
            assert sorted(set(statuses)) in ([201, 412], [200, 412])
            assert len(winners) == 1
            assert store.to_bytes(key) == b"%d" % winners[0]
        else:
            # Whoever looks after it was made overwrites it: its etag is not "a".
            assert statuses.count(201) == 1


def test_a_counter_is_kept_by_compare_and_set(get, store):
    store.set_metadata("k", {"n": 0})

    def count(number):
        for _ in range(5):
            while True:
                answer = get.get("/keys/k/metadata")
                new = {"n": answer.json["n"] + 1}
                if get.put("/keys/k/metadata", new, {"If-Match": answer["ETag"]}).status == 200:
                    break

    in_threads(4, count)
    assert store.get_metadata("k") == {"n": 20}


# Entity tags and dates


@pytest.mark.parametrize(
    ("etag", "tag"),
    [
        ("abc", '"abc"'),
        ("", '""'),
        ('a"b', '"a%22b"'),
        ("a b", '"a%20b"'),
        ("100%", '"100%25"'),
        ("\r\n\0\x7f", '"%0D%0A%00%7F"'),
        ("\u00e4\U0001f600", '"%C3%A4%F0%9F%98%80"'),
        ("\ud800", '"%ED%A0%80"'),
        ("a,b;W/'*", '"a,b;W/\'*"'),
    ],
)
def test_an_etag_of_any_kind_is_a_tag_and_back(etag, tag):
    assert format_etag(etag) == tag

    class Odd(FailingStore):
        def get(self, key):
            value = OldValue(b"data", {})
            value.etag = etag
            return value

        def _write(self, call, method, key, /, *args, **conditions):
            seen.append(conditions)

    seen = []
    get = WSGIClient(StoreApplication(Odd()))
    assert get.get("/keys/k/data")["ETag"] == tag
    assert get.get("/keys/k/data", {"If-None-Match": tag}).status == 304
    get.put("/keys/k/data", b"new", {"If-Match": tag})
    get.put("/keys/k/data", b"new", {"If-Match": f'"x" , {tag}'})
    assert seen == [{"if_match": etag}] * 2


@pytest.mark.parametrize("moment", [0.0, 951782399.9, 1e9 + 0.9999999, 253402300799.0, -1.5])
def test_dates_are_those_of_the_standard_library(moment):
    assert format_date(moment) == formatdate(moment // 1, usegmt=True)
    assert time.gmtime(moment // 1)


@pytest.mark.parametrize("moment", [None, 1e20, -1e20, float("nan"), float("inf"), -1e11])
def test_what_is_no_date_is_left_out(moment):
    assert format_date(moment) is None


# Ranges

WHOLE = None
NOTHING = "416"

RANGES = [
    ("bytes=0-0", (0, 1)),
    ("bytes=0-9", (0, 10)),
    ("bytes=2-4", (2, 5)),
    ("bytes=9-", (9, 10)),
    ("bytes=0-", (0, 10)),
    ("bytes=5-100", (5, 10)),
    ("bytes=-1", (9, 10)),
    ("bytes=-10", (0, 10)),
    ("bytes=-100", (0, 10)),
    ("BYTES=1-2", (1, 3)),
    ("bytes = 1 - 2", (1, 3)),
    (f"bytes=1-{'9' * 5000}", (1, 10)),
    (f"bytes=-{'9' * 5000}", (0, 10)),
    (f"bytes={'0' * 5000}1-2", (1, 3)),
    ("bytes=10-", NOTHING),
    ("bytes=10-20", NOTHING),
    (f"bytes={'9' * 5000}-", NOTHING),
    ("bytes=-0", NOTHING),
    # Several: the whole. No range of bytes: as if it were not there.
    ("bytes=0-1,3-4", WHOLE),
    ("bytes=0-1, bytes=3-4", WHOLE),
    ("bytes=0-1,", WHOLE),
    ("bytes=5-2", WHOLE),
    ("bytes=-", WHOLE),
    ("bytes=", WHOLE),
    ("bytes", WHOLE),
    ("", WHOLE),
    ("bytes=a-b", WHOLE),
    ("bytes=1", WHOLE),
    ("bytes=--1", WHOLE),
    ("bytes=1--2", WHOLE),
    ("bytes=+1-2", WHOLE),
    ("bytes=1_0-", WHOLE),
    ("bytes=\u0661-\u0662", WHOLE),
    ("items=0-1", WHOLE),
    ("lines=1-2", WHOLE),
]


@pytest.mark.parametrize(("header", "expected"), RANGES, ids=lambda each: repr(each)[:30])
@pytest.mark.parametrize("path", ["/keys/k/data", "/data/k"])
def test_one_range_is_sent_or_the_whole(get, path, header, expected):
    data = b"0123456789"
    answer = get.get(path, {"Range": header})
    if expected is NOTHING:
        assert answer.status == 416
        assert answer["Content-Range"] == "bytes */10"
    elif expected is WHOLE:
        assert (answer.status, answer.body) == (200, data)
        assert "Content-Range" not in answer
    else:
        begin, end = expected
        assert (answer.status, answer.body) == (206, data[begin:end])
        assert answer["Content-Range"] == f"bytes {begin}-{end - 1}/10"
        assert answer["Content-Length"] == str(end - begin)
        assert "ETag" in answer
    if expected is not NOTHING:
        assert answer["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "status"), [("bytes=0-", 416), ("bytes=-5", 200), ("bytes=-0", 416), ("x=1", 200)]
)
def test_ranges_of_nothing(header, status):
    get = WSGIClient(StoreApplication(store_of(b"")))
    answer = get.get("/keys/k/data", {"Range": header})
    assert answer.status == status
    if status == 200:
        assert answer.body == b""
    else:
        assert answer["Content-Range"] == "bytes */0"


def test_a_large_range_is_streamed():
    data = bytes(range(256)) * 4096
    get = WSGIClient(StoreApplication(memory(k=data)))
    answer = get.get("/data/k", {"Range": "bytes=5-1000000"})
    assert answer["Content-Length"] == "999996"
    assert answer.body == data[5:1_000_001]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-Range": '"ETAG"'}, 206),
        ({"If-Range": '"other"'}, 200),
        ({"If-Range": 'W/"ETAG"'}, 200),
        ({"If-Range": "ETAG"}, 200),
        ({"If-Range": '"ETAG", "other"'}, 200),
        ({"If-Range": SAME}, 200),  # never a strong validator
        ({"If-Range": AFTER}, 200),
        ({"If-Match": '"ETAG"'}, 206),
        ({"If-Match": '"other"'}, 412),
        ({"If-None-Match": '"ETAG"'}, 304),
        ({"If-None-Match": '"ETAG"', "If-Range": '"ETAG"'}, 304),
    ],
)
def test_a_range_under_a_condition(get, store, headers, status):
    headers = {"Range": "bytes=2-4", **filled(headers, store.get("k").etag)}
    answer = get.get("/keys/k/data", headers)
    assert answer.status == status
    if status in (200, 206):
        assert answer.body == (b"234" if status == 206 else b"0123456789")


def test_head_knows_no_ranges(get):
    answer = get("HEAD", "/keys/k/data", b"", {"Range": "bytes=2-4"})
    assert (answer.status, answer["Content-Length"]) == (200, "10")
    assert get("HEAD", "/keys/k/data", b"", {"Range": "bytes=99-"}).status == 200


def test_data_of_unknown_size_come_whole():
    get = WSGIClient(StoreApplication(OldStore(k=b"data")))
    answer = get.get("/keys/k/data", {"Range": "bytes=1-2"})
    assert (answer.status, answer.body) == (200, b"data")


def test_a_range_of_a_large_value_reads_little_of_it(store):
    class Watching(FailingStore):
        def get(self, key):
            value = super().get(key)
            value.range = lambda start, end: asked.append((start, end)) or io.BytesIO(b"234")
            return value

    asked = []
    get = WSGIClient(StoreApplication(Watching(store=store)))
    assert get.get("/keys/k/data", {"Range": "bytes=2-4"}).body == b"234"
    assert asked == [(2, 5)]


def test_a_refused_range_tells_how_much_there_is():
    with pytest.raises(RequestError) as caught:
        parse_range("bytes=5-", 5)
    assert caught.value.headers == [("Content-Range", "bytes */5")]
