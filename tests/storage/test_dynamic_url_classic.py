"""DynamicURLStore with servers of the kind that EnCore 0.8 talked to."""

from __future__ import annotations

import io

import pytest
from application_transport import APPLICATIONS, ApplicationTransport, store_on
from classic_server import ClassicServer

from encore.events.event_manager import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import AuthorizationError, StoreError, StoreFullError, TemporaryError
from encore.storage.retry_policy import RetryPolicy
from encore.storage.server import StoreApplication
from encore.storage.string_value import StringValue

LARGE = bytes(range(256)) * 1000


class Stream:
    """Nothing but read(n), which fails at the end if it is to."""

    def __init__(self, data, error=None):
        self.data = data
        self.error = error

    def read(self, size):
        piece, self.data = self.data[:size], self.data[size:]
        if not piece and self.error is not None:
            raise self.error
        return piece


@pytest.fixture
def server():
    return ClassicServer()


@pytest.fixture
def store(server):
    store = store_on(server, event_manager=EventManager(), policy=RetryPolicy(2, first_delay=0))
    with store:
        assert server.log.pop() == "OPTIONS /query"
        yield store
    APPLICATIONS.clear()


def put(store, key, data=b"data", /, **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def test_info_says_what_such_a_server_cannot_do(store):
    info = store.info()
    assert info["conditional"] is info["transactional"] is info["readonly"] is False
    assert info["streaming"] is info["authorizing"] is True
    assert info["durable"] == "process"


@pytest.mark.parametrize("statuses", ["right", "plain", "empty"])
@pytest.mark.parametrize("metadata_makes_keys", [True, False])
@pytest.mark.parametrize("has_etags", [True, False])
def test_everything_works_with_every_kind(
    server, store, recorded, statuses, metadata_makes_keys, has_etags
):
    server.statuses = statuses
    server.metadata_makes_keys = metadata_makes_keys
    server.has_etags = has_etags
    told = recorded(store)
    put(store, "a", b"1", n=1)
    put(store, "a", b"2", n=2)
    store.set_data("b", io.BytesIO(b"3"))
    store.set_metadata("c", {"n": 3})
    store.update_metadata("a", {"m": [None]})
    store.set("d", StringValue(LARGE, {"n": 4}))
    store.delete("b")
    assert told == [
        ("StoreSetEvent", "a", {"n": 1}, False),
        ("StoreUpdateEvent", "a", {"n": 2}, False),
        ("StoreSetEvent", "b", {}, False),
        ("StoreSetEvent", "c", {"n": 3}, False),
        ("StoreUpdateEvent", "a", {"n": 2, "m": [None]}, False),
        ("StoreSetEvent", "d", {"n": 4}, False),
        ("StoreDeleteEvent", "b", {}, False),
    ]
    assert {key: (data, metadata) for key, (data, metadata, _) in server.content.items()} == {
        "a": (b"2", {"n": 2, "m": [None]}),
        "c": (b"", {"n": 3}),
        "d": (LARGE, {"n": 4}),
    }
    assert store.exists("a")
    assert not store.exists("b")
    assert store.to_bytes("a") == b"2"
    assert store.get_metadata("a", ["n", "x"]) == {"n": 2}
    value = store.get("d")
    assert (value.size, value.metadata, value.etag) == (len(LARGE), {"n": 4}, None)
    assert value.data.read() == LARGE
    assert value.range(-5, -1).read() == LARGE[-5:-1]
    assert dict(store.query()) == {"a": {"n": 2, "m": [None]}, "c": {"n": 3}, "d": {"n": 4}}
    assert dict(store.query(n=2, m=[None], select=["n"])) == {"a": {"n": 2}}
    assert list(store.query_keys(n=4)) == ["d"]
    assert sorted(store.glob("[ad]")) == ["a", "d"]
    assert list(store.keys()) == ["a", "c", "d"]
    assert list(store.keys(start_after="a", limit=1)) == ["c"]
    for call in (store.get, store.get_data, store.get_metadata, store.delete, store.to_bytes):
        with pytest.raises(KeyError, match="'b'"):
            call("b")
    with pytest.raises(KeyError, match="'b'"):
        store.update_metadata("b", {})


@pytest.mark.parametrize("key", [".", "..", "a/../b", "//", "a%2Fb", "\u00e9 ?#", "a\rb", "\u2028"])
def test_any_key_on_one_line_survives_the_trip(store, server, key):
    put(store, key, b"data", key=key)
    assert list(server.content) == [key] == list(store.query_keys())
    assert store.get(key).metadata == {"key": key}
    store.delete(key)
    assert server.content == {}


def test_the_data_come_last(store, server):
    put(store, "k", b"data", n=1)
    put(store, "k", LARGE, n=2)
    assert [line for line in server.log if line.startswith("PUT")] == [
        "PUT /keys/k/metadata",
        "PUT /keys/k/data",
    ] * 2


def test_data_come_first_where_the_server_wants_them_first(store, server):
    server.metadata_makes_keys = False
    put(store, "k", b"data", n=1)
    assert server.content["k"][:2] == [b"data", {"n": 1}]


def test_without_listeners_nothing_more_is_asked_than_08_did(store, server):
    put(store, "k")
    server.log.clear()
    store.set_data("k", io.BytesIO(b"1"))
    store.set_metadata("k", {})
    store.update_metadata("k", {})
    store.delete("k")
    assert server.log == [
        "PUT /keys/k/data",
        "PUT /keys/k/metadata",
        "POST /keys/k/metadata",
        "DELETE /keys/k",
    ]


@pytest.mark.parametrize("error", [OSError(5, "mine"), KeyboardInterrupt()])
@pytest.mark.parametrize("size", [10, len(LARGE)])
def test_a_failing_stream_changes_nothing(store, server, size, error):
    put(store, "old", b"old", old=1)
    server.log.clear()
    for key in ("old", "new"):
        for stream in (Stream(LARGE[:size], error),):
            with pytest.raises(type(error)) as caught:
                store.set(key, (stream, {"new": 1}))
            assert caught.value is error
    assert list(server.content) == ["old"]
    assert server.content["old"][:2] == [b"old", {"old": 1}]
    assert not any(line.startswith(("PUT", "DELETE")) for line in server.log)


@pytest.mark.parametrize("status", [413, 507])
@pytest.mark.parametrize("metadata_makes_keys", [True, False])
def test_the_old_metadata_come_back_if_the_data_are_refused(
    store, server, status, metadata_makes_keys
):
    put(store, "old", b"data", old=1)
    server.metadata_makes_keys = metadata_makes_keys
    for key in ("old", "new"):
        server.failures["PUT", "data"] = [status]
        with pytest.raises(StoreFullError if status == 507 else StoreError):
            # As many bytes as there are.
            put(store, key, b"atad", new=1)
    assert list(server.content) == ["old"]
    assert server.content["old"][:2] == [b"data", {"old": 1}]


def test_what_others_have_written_meanwhile_is_not_deleted(store, server):
    def answer(key, body):
        server.content[key] = [b"theirs", {"theirs": 1}, {"owned": ["you"]}]
        return 413, [], b""

    server._put_data = answer
    with pytest.raises(StoreError):
        put(store, "new", b"ours", ours=1)
    assert server.content["new"][:2] == [b"theirs", {"theirs": 1}]


def test_metadata_stay_if_the_data_may_have_been_written(store, server):
    put(store, "k", b"old", old=1)
    original = server._put_data

    def lost(key, body):
        original(key, body)
        return 503, [], b""

    server._put_data = lost
    with pytest.raises(TemporaryError):
        put(store, "k", b"newer", new=1)
    assert server.content["k"][:2] == [b"newer", {"new": 1}]


def test_an_error_of_undoing_does_not_hide_the_first(store, server):
    put(store, "k", b"old", old=1)
    server.failures["PUT", "data"] = [413]
    server.failures["PUT", "metadata"] = [200, 500, 500]
    with pytest.raises(StoreError, match="413"):
        put(store, "k", b"new", new=1)


def test_a_large_value_is_spooled_and_sent_with_its_size(store, server, recorded):
    seen = []
    original = server.__call__

    def noting(environ, start_response):
        seen.append((environ["PATH_INFO"], environ.get("CONTENT_LENGTH")))
        return original(environ, start_response)

    store._remote.client._transport = ApplicationTransport(noting)
    store.set("k", (Stream(LARGE), {}))
    assert seen[-1] == ("/keys/k/data", str(len(LARGE)))
    assert server.content["k"][0] == LARGE


@pytest.mark.parametrize("has_etags", [True, False])
def test_data_that_have_been_overwritten_are_not_taken_for_the_old(store, server, has_etags):
    server.has_etags = has_etags
    put(store, "k", LARGE)
    value = store.get("k")
    server.content["k"][0] = LARGE + b"more"
    with pytest.raises(StoreError, match="overwritten"):
        value.data.read()
    del server.content["k"]
    with pytest.raises(StoreError, match="deleted"):
        value.range(0, 10).read()


def test_ranges_where_the_server_knows_none(store):
    put(store, "k", LARGE)
    size = len(LARGE)
    for start, end in [
        (0, 10),
        (5, 10),
        (None, None),
        (-10, None),
        (-10, -5),
        (size - 5, size + 9),
    ]:
        for stream in (store.get_data_range("k", start, end), store.get("k").range(start, end)):
            assert stream.read() == LARGE[start:end]
    for start, end in [(10, 5), (size, None), (size + 10, None), (3, 3)]:
        assert store.get_data_range("k", start, end).read() == b""
    with pytest.raises(KeyError):
        store.get_data_range("no", 5, 3)


def test_conditions_are_refused_clearly(store, server):
    put(store, "k")
    server.log.clear()
    for condition in ({"if_match": "x"}, {"if_none_match": "*"}):
        with pytest.raises(NotImplementedError):
            store.set("k", (io.BytesIO(), {}), **condition)
        with pytest.raises(NotImplementedError):
            store.delete("k", **condition)
    with pytest.raises(ValueError, match="both"):
        store.delete("k", if_match="x", if_none_match="*")
    assert server.log == []


def test_permissions(store, server):
    put(store, "k")
    assert store.get_permissions("k") == {"owned": {"me"}} == store.get("k").permissions
    store.update_permissions("k", {"read": ["you"]})
    store.set_permissions("k", {"owned": ("me", "you")})
    assert store.get_permissions("k") == {"owned": {"me", "you"}}
    server.content["k"][2] = {"owned": ["you"]}
    with pytest.raises(AuthorizationError):
        store.get_permissions("k")
    for call in (store.get_permissions, lambda key: store.set_permissions(key, {"owned": {"me"}})):
        with pytest.raises(KeyError, match="'no'"):
            call("no")


def test_a_key_without_metadata_has_none(store, server):
    put(store, "k")
    server._get_metadata = lambda key, body: (404, [], b"")
    assert store.get("k").metadata == {} == store.get_metadata("k")


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"a": 1'])
def test_damaged_metadata_are_a_store_error(store, server, text):
    put(store, "k")
    server._get_metadata = lambda key, body: (200, [], text)
    with pytest.raises(StoreError, match="damaged") as caught:
        store.get_metadata("k")
    assert caught.value.key == "k"


def test_a_key_that_is_none_is_a_store_error(store, server):
    server._query = lambda query: (200, [], b"good\n\xff\n")
    found = store.query_keys()
    assert next(found) == "good"
    with pytest.raises(StoreError, match="no key"):
        next(found)


def test_a_delete_whose_answer_was_lost_is_done(store, server, recorded):
    put(store, "k", n=1)
    told = recorded(store)
    original = server._delete_key

    def lost(key, body):
        original(key, body)
        server._delete_key = original
        return 503, [], b""

    server._delete_key = lost
    store.delete("k")
    assert told == [("StoreDeleteEvent", "k", {"n": 1}, False)]
    with pytest.raises(KeyError):
        store.delete("k")


def test_what_is_equal_for_the_server_alone_is_not_found(store):
    put(store, "number", n=1)
    put(store, "truth", n=True)
    assert dict(store.query(n=1)) == {"number": {"n": 1}}
    assert dict(store.query(n=True)) == {"truth": {"n": True}}


@pytest.mark.parametrize(
    ("options", "text"),
    [({"static": True}, "static:URL, a StaticURLStore, reads"), ({"hosts": ["a"]}, "no server of")],
)
def test_one_of_ours_that_refuses_is_not_taken_for_such_a_server(options, text):
    with DictMemoryStore(event_manager=EventManager()) as inner:
        store = store_on(StoreApplication(inner, **options))
        with pytest.raises(StoreError, match=text):
            store.connect()
        assert not store.is_connected()
    APPLICATIONS.clear()
