"""What a DynamicURLStore asks a server of ours, and what it makes of the answers."""

from __future__ import annotations

import io
import json

import pytest
from application_transport import APPLICATIONS, store_on
from served_stores import OldStore, OldValue
from watched_application import WatchedApplication

from encore.events.event_manager import EventManager
from encore.storage._spool import spooled
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import (
    PreconditionError,
    StoreError,
    TemporaryError,
)
from encore.storage.events import (
    StoreModificationEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
)
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication
from encore.storage.string_value import StringValue
from encore.storage.wrapper_store import WrapperStore

LARGE = bytes(range(256)) * 1000


@pytest.fixture
def inner():
    with DictMemoryStore(event_manager=EventManager()) as store:
        yield store


@pytest.fixture
def application(inner):
    return WatchedApplication(StoreApplication(inner))


@pytest.fixture
def store(application):
    with store_on(
        application, event_manager=EventManager(), policy=RetryPolicy(3, first_delay=0)
    ) as store:
        application.log.clear()
        yield store
    APPLICATIONS.clear()


def put(store, key, data=b"data", /, **metadata):
    store.set(key, (io.BytesIO(data), metadata))


# Requests


def test_set_is_one_request_for_data_and_metadata(store, application):
    put(store, "k", b"data", a=1)
    put(store, "k", LARGE, a=2)
    assert application.lines == ["PUT /keys/k/value"] * 2
    for (_, environ), size in zip(application.log, (4, len(LARGE)), strict=True):
        assert environ["CONTENT_LENGTH"] == str(size + len('{"a":1}'))
        assert environ["HTTP_ENCORE_METADATA_LENGTH"] == "7"


def test_what_has_no_size_is_sent_in_chunks(store, application, inner):
    class Stream:
        def __init__(self, data):
            self.data = data

        def read(self, size):
            piece, self.data = self.data[:size], self.data[size:]
            return piece

    store.set("k", (Stream(LARGE), {}))
    assert application.log[-1][1]["HTTP_TRANSFER_ENCODING"] == "chunked"
    assert inner.to_bytes("k") == LARGE
    store.set("k", StringValue(LARGE + b"x"))
    assert application.log[-1][1]["CONTENT_LENGTH"] == str(len(LARGE) + 3)
    assert inner.to_bytes("k") == LARGE + b"x"


def test_metadata_are_sent_back_only_if_somebody_wants_them(store, application):
    def preference():
        return application.log[-1][1].get("HTTP_PREFER")

    changes = [
        lambda: store.set_data("k", io.BytesIO(b"x")),
        lambda: store.update_metadata("k", {"a": 1}),
        lambda: store.delete("k"),
    ]
    put(store, "k")
    for change in changes:
        change()
        assert preference() == "return=minimal"
    put(store, "k", a=0)
    told = []

    def listener(event):
        told.append(event.metadata)

    store.event_manager.connect(StoreModificationEvent, listener)
    for change in changes:
        change()
        assert preference() is None
    assert told == [{"a": 0}, {"a": 1}, {"a": 1}]


def test_who_begins_to_listen_while_data_are_read_is_told(store):
    put(store, "k", a=1)
    told = []

    def listener(event):
        told.append(event.metadata)

    class Stream:
        left = 2

        def read(self, size):
            store.event_manager.connect(StoreModificationEvent, listener)
            self.left -= 1
            return b"x" * self.left

    store.set_data("k", Stream())
    assert told == [{"a": 1}]


def test_a_wrapper_is_told_what_happened(store):
    wrapper = WrapperStore(store, event_manager=EventManager())
    told = []

    def listener(event):
        told.append((type(event).__name__, event.key, event.metadata, event.source))

    wrapper.event_manager.connect(StoreModificationEvent, listener)
    put(wrapper, "k", a=1)
    wrapper.set_data("k", io.BytesIO(b"x"))
    wrapper.delete("k")
    assert told == [
        ("StoreSetEvent", "k", {"a": 1}, wrapper),
        ("StoreUpdateEvent", "k", {"a": 1}, wrapper),
        ("StoreDeleteEvent", "k", {"a": 1}, wrapper),
    ]


def test_what_a_stream_does_meanwhile_is_its_own_doing(store):
    wrapper = WrapperStore(store, event_manager=EventManager())
    told = []

    def listener(event):
        told.append(event.key)

    wrapper.event_manager.connect(StoreModificationEvent, listener)

    class Stream:
        data = b"x"

        def read(self, size):
            store.from_bytes("other", b"")
            data, self.data = self.data, b""
            return data

    wrapper.set("k", (Stream(), {}))
    assert store.exists("other")
    assert told == ["k"]


# Values


def test_a_small_value_is_one_request(store, application):
    put(store, "k", b"x" * 65536, a=1)
    application.log.clear()
    value = store.get("k")
    assert value.data.read() == b"x" * 65536
    assert value.range(-2).read() == b"xx"
    assert value.metadata == {"a": 1}
    assert application.lines == ["GET /keys/k/value"]


def test_of_a_large_value_the_data_are_asked_for_by_its_etag(store, application, inner):
    put(store, "k", LARGE, a=1)
    application.log.clear()
    value = store.get("k")
    there = inner.get("k")
    assert (value.size, value.etag) == (len(LARGE), there.etag)
    assert (value.created, value.modified) == (there.created, there.modified)
    assert value.data.read() == LARGE
    assert application.lines == ["GET /keys/k/value", "GET /keys/k/data"]
    assert application.log[-1][1]["HTTP_IF_MATCH"] == f'"{there.etag}"'
    assert value.range(10, 20).read() == LARGE[10:20]
    assert application.log[-1][1]["HTTP_RANGE"] == "bytes=10-19"
    inner.set_metadata("k", {"a": 2})
    assert value.metadata == {"a": 1}
    for read in (lambda: value.data, value.range, lambda: value.range(5, 9)):
        with pytest.raises(StoreError, match="overwritten") as caught:
            read()
        assert caught.value.key == "k"
    inner.delete("k")
    with pytest.raises(StoreError, match="deleted"):
        value.data.read()


def test_without_etags_data_are_told_apart_by_their_stamp():
    with OldStore(k=LARGE) as inner, store_on(StoreApplication(inner)) as store:
        stamp = 1.5
        OldValue.modified = property(lambda value: stamp)
        try:
            value = store.get("k")
            assert value.modified == 1.5
            assert value.etag is None
            assert value.data.read() == LARGE
            stamp = 1.75
            with pytest.raises(StoreError, match="overwritten"):
                value.data.read()
        finally:
            del OldValue.modified


def test_an_open_stream_keeps_what_it_opened(store, inner):
    put(store, "k", LARGE)
    with store.get("k").data as stream:
        assert stream.read(5) == LARGE[:5]
        inner.delete("k")
        assert stream.read() == LARGE[5:]


@pytest.mark.parametrize(
    ("start", "end", "requests"),
    [
        (None, None, 1),
        (0, None, 1),
        (5, None, 1),
        (5, 10, 1),
        (0, 10**9, 1),
        (-10, None, 1),
        (-(10**9), None, 1),
        (len(LARGE), None, 1),
        (len(LARGE) + 5, 10**9, 1),
        (10, 5, 1),
        (0, 0, 1),
        (-10, -5, 2),
        (5, -5, 2),
        (-10, 10**9, 2),
    ],
)
def test_a_range_is_one_request_where_the_bounds_say_which(
    store, application, start, end, requests
):
    put(store, "k", LARGE)
    application.log.clear()
    with store.get_data_range("k", start, end) as stream:
        assert stream.read() == LARGE[start:end]
    assert len(application.log) == requests
    with pytest.raises(KeyError, match="'no'"):
        store.get_data_range("no", start, end)


def test_reading_little_of_much_transfers_little(store, application):
    put(store, "k", LARGE)
    with store.get_data_range("k", 1000, 1010) as stream:
        stream.read()
    assert application.log[-1][1]["HTTP_RANGE"] == "bytes=1000-1009"


def test_a_value_of_unknown_size():
    with store_on(StoreApplication(OldStore(large=LARGE, small=b"12345"))) as store:
        small, large = store.get("small"), store.get("large")
        assert small.size == 5
        assert large.size is None
        assert large.etag is None
        assert large.data.read() == LARGE
        for start, end in [
            (0, 10),
            (5, None),
            (-5, None),
            (-5, -1),
            (5, 3),
            (10**7, None),
            (0, -1),
        ]:
            assert large.range(start, end).read() == LARGE[start:end]


def test_a_value_has_its_own_copy_of_the_metadata(store):
    put(store, "k", a=[1])
    value = store.get("k")
    value.metadata["a"].append(2)
    assert value.metadata == {"a": [1]}


@pytest.mark.parametrize("headers", [[], [("Encore-Metadata-Length", "99")]])
def test_an_answer_that_is_no_value_is_a_store_error(store, application, headers):
    put(store, "k")
    application.instead = lambda environ: (200, headers, b"{}data")
    with pytest.raises(StoreError, match="no metadata"):
        store.get("k")


@pytest.mark.parametrize(
    ("text", "length", "error"),
    [(b"{}data", "5", "not whole"), (b"[]data", "4", "damaged"), (b"{}", "x", None)],
)
def test_a_value_that_is_damaged_on_its_way(store, application, text, length, error):
    headers = [("Encore-Metadata-Length", "2"), ("Encore-Data-Length", length)]
    application.instead = lambda environ: (200, headers, text)
    if error is None:
        assert store.get("k").size is None
        return
    with pytest.raises(StoreError, match=error):
        store.get("k")


# Queries


def test_a_cut_answer_gives_nothing(store, application):
    for lines in (b"", b'"a"\n', b'"a"\nnull', b'"a"\nnul'):
        application.instead = lambda environ, lines=lines: (200, [], lines)
        for walk in (store.query_keys(), store.keys(), store.query()):
            with pytest.raises(StoreError, match="too early"):
                next(walk)


def test_a_cut_answer_is_asked_for_once_more(store, application):
    put(store, "k", a=1)
    answers = [b'"k"\n', b'["k"', b""]

    def instead(environ):
        return (200, [], answers.pop()) if answers else None

    for walk in (store.query_keys, store.query, store.keys):
        count = len(answers)
        application.instead = lambda environ: (
            instead(environ) if len(answers) == count else None  # noqa: B023 - it is called at once
        )
        assert len(list(walk())) == 1
    assert answers == []


@pytest.mark.parametrize("line", ["5", '["a"]', '["a", 5]', '{"a": 1}', "[", '["", {}]', '""', "x"])
def test_nonsense_is_a_store_error(store, application, line):
    application.instead = lambda environ: (200, [], f"{line}\nnull\n".encode())
    for walk in (store.query_keys(), store.keys(), store.query()):
        with pytest.raises(StoreError):
            list(walk)


def test_an_answer_is_read_whole_before_the_first_key_is_given(store, application, monkeypatch):
    monkeypatch.setattr(spooled, "__defaults__", (10,))
    store.multiset([f"k{n}" for n in range(50)], [StringValue(b"", {"n": n}) for n in range(50)])
    count = 0
    for key, metadata in store.query():
        assert metadata == {"n": int(key[1:])}
        store.delete(key)
        count += 1
    assert count == 50
    assert list(store.query_keys()) == []


def test_what_is_asked_for_is_all_that_comes(store, application):
    store.multiset(["a1", "a2", "b"], [StringValue(b"", {"n": n, "m": "x"}) for n in range(3)])
    application.log.clear()

    def posted():
        (_, environ), application.log[:] = application.log[-1], []
        environ["wsgi.input"].seek(0)
        return json.loads(environ["wsgi.input"].read())

    assert list(store.query(select=["n"], n=1)) == [("a2", {"n": 1})]
    assert posted() == {"where": {"n": 1}, "select": ["n"]}
    assert list(store.query_keys(where={"select": 1, "n": 2})) == []
    assert posted() == {"where": {"select": 1, "n": 2}, "keys_only": True}
    assert list(store.keys("a", "a1", 5)) == ["a2"]
    assert posted() == {"prefix": "a", "start_after": "a1", "limit": 5, "keys_only": True}
    assert list(store.keys()) == ["a1", "a2", "b"]
    assert posted() == {"prefix": "", "start_after": "", "limit": None, "keys_only": True}
    assert sorted(store.glob("a*")) == ["a1", "a2"]
    assert posted() == {"glob": "a*", "keys_only": True}


# When answers are lost


def lose(application, count=1):
    """Let the next answers be lost, after the application has done its work."""
    left = [count]

    def after():
        if left[0]:
            left[0] -= 1
            raise TemporaryError("the answer was lost")

    application.after = after


def test_what_is_safe_to_repeat_is_repeated(store, application, inner):
    put(store, "k", a=1)
    for call in (
        lambda: put(store, "k", b"new", a=2),
        lambda: put(store, "k", LARGE, a=2),
        lambda: store.set("k", StringValue(LARGE)),
        lambda: store.set_data("k", io.BytesIO(b"x")),
        lambda: store.set_metadata("k", {"a": 3}),
        lambda: store.update_metadata("k", {"b": 4}),
        lambda: store.get("k"),
        lambda: store.exists("k"),
        lambda: store.get_metadata("k"),
        lambda: list(store.query()),
    ):
        lose(application, 2)
        application.log.clear()
        call()
        assert len(application.log) == 3
    assert inner.get_metadata("k") == {"a": 3, "b": 4}


def test_a_stream_that_is_gone_is_not_repeated(store, application):
    class Stream:
        left = 5

        def read(self, size):
            self.left -= 1
            return b"x" * 60_000 if self.left > 0 else b""

    put(store, "k")
    lose(application)
    application.log.clear()
    with pytest.raises(TemporaryError):
        store.set_data("k", Stream())
    assert len(application.log) == 1


def test_what_has_a_condition_is_not_repeated(store, application, inner):
    put(store, "k")
    for call in (
        lambda etag: store.set("k", (io.BytesIO(b"1"), {}), if_match=etag),
        lambda etag: store.set_data("k", io.BytesIO(b"2"), if_match=etag),
        lambda etag: store.set_metadata("k", {"a": 3}, if_match=etag),
        lambda etag: store.update_metadata("k", {"b": 4}, if_match=etag),
        lambda etag: store.set_data("new", io.BytesIO(), if_none_match="*"),
        lambda etag: store.delete("k", if_match=etag),
    ):
        etag = inner.get("k").etag
        lose(application)
        application.log.clear()
        with pytest.raises(TemporaryError) as caught:
            call(etag)
        assert caught.value.happened is None
        assert len(application.log) == 1
        application.after = None
    assert not inner.exists("k")


def test_a_delete_whose_answer_was_lost_is_done(store, application, inner, recorded):
    put(store, "k", a=1)
    told = recorded(store)
    lose(application)
    store.delete("k")
    assert not inner.exists("k")
    assert [(name, key) for name, key, _, _ in told] == [("StoreDeleteEvent", "k")]
    with pytest.raises(KeyError):
        store.delete("k")


def test_a_request_that_was_not_done_is_no_lost_answer(store, application):
    def instead(environ):
        application.instead = None
        return 429, [], b""

    application.instead = instead
    with pytest.raises(KeyError):
        store.delete("k")
    assert len(application.log) == 2


def test_progress_of_a_repetition_goes_on(store, application):
    steps = []

    def listener(event):
        steps.append(event.step)

    store.event_manager.connect(StoreProgressStepEvent, listener)
    lose(application)
    store.set("k", (io.BytesIO(LARGE), {}), 100_000)
    assert steps == [100_000, 200_000, len(LARGE)]


def test_one_event_even_if_an_answer_was_lost(store, application):
    told = []

    def listener(event):
        told.append(type(event))

    store.event_manager.connect(StoreModificationEvent, listener)
    put(store, "k")
    lose(application)
    put(store, "k")
    assert len(told) == 2
    assert told[0] is StoreSetEvent


# Conditions


@pytest.mark.parametrize(
    "etag", ["", "*", 'a"b', "a,b", "W/x", "%22", "\u00e9", "\ud800", "a\r\nb"]
)
def test_any_text_may_be_compared_with_an_etag(store, application, etag):
    put(store, "k")
    with pytest.raises(PreconditionError) as caught:
        store.set_metadata("k", {}, if_match=etag)
    assert caught.value.key == "k"
    sent = application.log[-1][1]["HTTP_IF_MATCH"]
    assert sent.isascii()
    assert sent.isprintable()


def test_an_odd_etag_makes_the_round_trip():
    class OddValue(StringValue):
        etag = 'a"b%\u00e9 ,'

    class Inner(DictMemoryStore):
        def get(self, key):
            with super().get(key).data as stream:
                return OddValue(stream.read())

    with Inner(event_manager=EventManager()) as inner:
        inner.from_bytes("k", LARGE)
        with store_on(StoreApplication(inner)) as store:
            value = store.get("k")
            assert value.etag == OddValue.etag
            assert value.data.read() == LARGE
