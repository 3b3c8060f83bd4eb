"""Values behind URLs: what is asked of the server, and what comes of servers that do as they like."""

from __future__ import annotations

import io

import pytest
from static_site import Site, serving

from encore.events.event_manager import EventManager
from encore.storage.errors import AuthorizationError, StoreError, TemporaryError
from encore.storage.static_url_store import StaticURLStore
from encore.storage.url_value import URLValue

DATA = bytes(range(256)) * 600  # more than is read ahead anywhere
SIZE = len(DATA)
MODIFIED = 1_700_000_000.0


@pytest.fixture
def site():
    return Site({"key": (DATA, {"a": [1]}), "small": (b"0123456789", {}), "empty": (b"", {})})


@pytest.fixture
def connected(site):
    """A function that returns a store on the site, behind a server with these options."""
    entered = []

    def connect(**options):
        context = serving(site, **options)
        url = context.__enter__()
        store = StaticURLStore(
            url, "data/", "index.json", poll=0, event_manager=EventManager(), timeout=5
        )
        entered.append((context, store))
        store.connect()
        site.seen.clear()
        return store

    yield connect
    for context, store in entered:
        store.disconnect()
        context.__exit__(None, None, None)


def asked(site):
    """Return what was asked since the last time: the method, and the range."""
    found = [(method, headers.get("Range")) for method, _, headers in site.seen]
    site.seen.clear()
    return found


def read(stream):
    with stream:
        return stream.read()


# What is asked


def test_nothing_is_asked_before_something_is_wanted(connected, site):
    store = connected()
    value = store.get("key")
    assert value.metadata == {"a": [1]}
    assert "data/key" in repr(value)
    assert store.exists("key")
    assert store.get_metadata("key") == {"a": [1]}
    iterator = value.iterdata()
    assert asked(site) == []
    assert b"".join(iterator) == DATA
    assert asked(site) == [("GET", None)]


def test_facts_take_one_head(connected, site):
    value = connected().get("key")
    assert (value.size, value.modified, value.created) == (SIZE, MODIFIED, MODIFIED)
    assert isinstance(value.etag, str)
    assert asked(site) == [("HEAD", None)]


def test_facts_are_known_from_the_data(connected, site):
    value = connected().get("key")
    with value.data:
        assert (value.size, value.modified) == (SIZE, MODIFIED)
        assert value.etag
    assert asked(site) == [("GET", None)]
    value = connected().get("key")
    with value.range(5, 10):
        assert value.size == SIZE
    assert asked(site) == [("GET", "bytes=5-9")]


@pytest.mark.parametrize("status", [400, 403, 405, 501])
def test_facts_where_head_is_refused(connected, site, status):
    def hook(handler):
        if handler.command == "HEAD":
            handler.send_error(status)
        return handler.command == "HEAD"

    value = connected(hook=hook).get("key")
    assert (value.size, value.modified) == (SIZE, MODIFIED)
    assert asked(site) == [("HEAD", None), ("GET", None)]


def test_facts_that_a_server_does_not_know(connected):
    value = connected(etags=False, dates=False, lengths=False, keep_alive=False).get("key")
    assert (value.size, value.modified, value.created, value.etag) == (None,) * 4


def test_etags_tell_data_and_metadata_apart(connected, site):
    store = connected()
    first = store.get("key").etag
    assert store.get("key").etag == first
    site.data["key"] = DATA[::-1]
    second = store.get("key").etag
    site.index["key"] = {"a": [2]}
    store.update_index()
    assert len({first, second, store.get("key").etag}) == 3


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [("GET", None)]),
        (0, None, [("GET", None)]),
        (5, None, [("GET", "bytes=5-")]),
        (5, 15, [("GET", "bytes=5-14")]),
        (None, 1, [("GET", "bytes=0-0")]),
        (-10, None, [("GET", "bytes=-10")]),
        (-10, -5, [("GET", "bytes=-10")]),
        (5, -5, [("GET", "bytes=5-")]),
        (None, -5, [("GET", None)]),
        (5, 5, []),
        (10, 5, []),
        (-5, -10, []),
        (10**30, None, []),
        (0, 10**30, [("GET", None)]),
        (7, 10**30, [("GET", "bytes=7-")]),
        (-(10**30), None, [("GET", None)]),
        (-100_000, -90_000, [("HEAD", None), ("GET", f"bytes={SIZE - 100_000}-{SIZE - 90_001}")]),
        (10, 80_000 - SIZE, [("HEAD", None), ("GET", "bytes=10-79999")]),
        (-10, SIZE, [("HEAD", None), ("GET", f"bytes={SIZE - 10}-{SIZE - 1}")]),
        (SIZE, None, [("GET", f"bytes={SIZE}-"), ("HEAD", None)]),
    ],
)
def test_a_range_is_asked_for_as_one(connected, site, start, end, expected):
    value = connected().get("key")
    assert read(value.range(start, end)) == DATA[start:end]
    assert asked(site) == expected


def test_a_range_of_known_size_is_asked_for_exactly(connected, site):
    value = connected().get("key")
    assert value.size == SIZE
    site.seen.clear()
    for start, end, expected in (
        (-10, -5, [("GET", f"bytes={SIZE - 10}-{SIZE - 6}")]),
        (5, -5, [("GET", f"bytes=5-{SIZE - 6}")]),
        (-SIZE - 5, None, [("GET", None)]),
        (SIZE, None, []),
        (0, 10**30, [("GET", None)]),
    ):
        assert read(value.range(start, end)) == DATA[start:end]
        assert asked(site) == expected


def test_empty_data_have_only_empty_ranges(connected):
    for options in ({}, {"ranges": False}, {"lengths": False, "keep_alive": False}):
        store = connected(**options)
        for bounds in ((), (5,), (-5,), (0, 5), (-5, -1), (1, -1), (-1, 1)):
            assert read(store.get("empty").range(*bounds)) == b"", bounds


def test_a_connection_is_kept_for_the_next_request(connected):
    ports = set()

    def hook(handler):
        ports.add(handler.client_address)

    store = connected(hook=hook)
    ports.clear()
    for _ in range(3):
        assert store.to_bytes("small") == b"0123456789"
        assert read(store.get_data_range("key", 10, 20)) == DATA[10:20]
        assert store.get("key").size == SIZE
        assert read(store.get_data_range("small", 2, -2)) == b"234567"
    assert len(ports) == 1


# Servers that do as they like


@pytest.mark.parametrize(
    "options",
    [
        {"ranges": False},
        {"ranges": False, "keep_alive": False},
        {"ranges": False, "lengths": False, "keep_alive": False, "etags": False, "dates": False},
        {"ranges": False, "lengths": "head", "keep_alive": False},
    ],
    ids=str,
)
def test_ranges_of_a_server_that_has_none(connected, options):
    value = connected(**options).get("key")
    bounds = [
        None,
        -SIZE - 1,
        -SIZE,
        -100_000,
        -10,
        -1,
        0,
        1,
        10,
        100_000,
        SIZE - 1,
        SIZE,
        SIZE + 1,
    ]
    for start in bounds:
        for end in bounds[::2]:
            assert read(value.range(start, end)) == DATA[start:end], (start, end)


def answer(status, headers, body):
    """Return a hook that answers requests for ranges so."""

    def hook(handler):
        if "Range" not in handler.headers:
            return False
        handler.reply(status, headers, body, True)
        return True

    return hook


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (206, {}, b"01234"),
        (206, {"Content-Range": "nonsense"}, b"23456"),
        (206, {"Content-Range": "bytes 2-6"}, b"23456"),
        (206, {"Content-Range": "bytes 0-4/10"}, b"01234"),
        (206, {"Content-Range": "bytes 2-5/10"}, b"2345"),
        (206, {"Content-Range": "bytes 2-6/10"}, b"234"),
        (206, {"Content-Range": "bytes 2-6/10"}, b"2345678"),
        (206, {"Content-Range": "bytes 2-6/4"}, b"23456"),
        (206, {"Content-Range": "bytes 6-2/10"}, b"23456"),
        (206, {"Content-Range": "bytes 2-6/*"}, b"23456"),
        (206, {"Content-Range": "bytes */10"}, b""),
        (206, {"Content-Range": f"bytes 2-{'6' * 5000}/10"}, b"23456"),
        (206, {"Content-Range": "bytes 2-\u0666/10"}, b"23456"),
        (206, {"Content-Range": "lines 2-6/10"}, b"23456"),
        (206, {"Content-Type": "multipart/byteranges; boundary=x"}, b"--x\r\n"),
        (416, {"Content-Range": "bytes */1"}, b""),
        (416, {}, b"no"),
    ],
    ids=str,
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_not_believed(connected, status, headers, body):
    headers = {name: text.encode().decode("latin-1") for name, text in headers.items()}
    store = connected(hook=answer(status, headers, body))
    value = store.get("small")
    assert read(value.range(2, 7)) == b"23456"
    assert value.size == 10
    assert read(value.range(2, 7)) == b"23456"


def test_an_answer_of_another_size_is_not_believed(connected, site):
    value = connected(hook=answer(206, {"Content-Range": "bytes 2-6/7"}, b"xxxxx")).get("small")
    assert value.size == 10
    assert read(value.range(2, 7)) == b"23456"
    assert value.size == 10


def test_an_answer_that_has_more_than_was_asked_for(connected):
    hook = answer(206, {"Content-Range": "bytes 1-8/10"}, b"12345678")
    assert read(connected(hook=hook).get("small").range(2, 7)) == b"23456"


def test_what_is_neither_data_nor_refusal(connected):
    def hook(handler):
        if handler.path.startswith("/data"):
            handler.reply(204, {}, b"", False)
            return True
        return False

    value = connected(hook=hook).get("small")
    with pytest.raises(StoreError, match="204"):
        value.data  # noqa: B018 - it raises


@pytest.mark.parametrize("keep_alive", [True, False])
def test_data_that_end_too_early(connected, tmp_path, keep_alive):
    def hook(handler):
        if not handler.path.startswith("/data") or handler.command == "HEAD":
            return False
        size = 5 if "Range" in handler.headers else 10
        handler.send_response(206 if size == 5 else 200)
        handler.send_header("Content-Length", str(size))
        if size == 5:
            handler.send_header("Content-Range", "bytes 2-6/10")
        handler.end_headers()
        handler.wfile.write(b"234")
        handler.close_connection = True
        return True

    store = connected(hook=hook, keep_alive=keep_alive)
    target = tmp_path / "target"
    for use in (
        lambda: store.get_data("small").read(),
        lambda: list(store.get_data("small")),
        lambda: store.to_bytes("small"),
        lambda: store.to_file("small", target),
        lambda: b"".join(store.get("small").iterdata(1)),
        lambda: store.get_data_range("small", 2, 7).read(),
        lambda: io.TextIOWrapper(store.get_data("small")).read(),
        lambda: store.mapping()["small"],
    ):
        with pytest.raises(StoreError):
            assert use()
    assert not target.exists()


def test_data_without_a_length_that_end_too_early(connected, site):
    """The length is known from HEAD, or from the first time."""
    value = connected(lengths="head", keep_alive=False).get("key")
    assert value.size == SIZE
    assert read(value.data) == DATA
    site.data["key"] = DATA[:-1]
    # The etag is another one.
    with pytest.raises(StoreError, match="changed"):
        value.data  # noqa: B018 - it raises


@pytest.mark.parametrize("wrong", [DATA[:-1], DATA + b"x"])
def test_data_of_unknown_length_must_be_as_long_as_they_were(connected, site, wrong):
    value = connected(lengths="head", keep_alive=False, etags=False).get("key")
    assert value.size == SIZE
    site.data["key"] = wrong
    with value.data as stream, pytest.raises(StoreError):
        stream.read()
    with value.data as stream, pytest.raises(StoreError):
        list(iter(lambda: stream.read(1000), b""))


def test_data_that_are_replaced(connected, site):
    store = connected()
    value = store.get("key")
    with value.data as stream:
        assert stream.read(10) == DATA[:10]
        site.data["key"] = DATA[::-1]
        # What is open may go on, or not; it is no mixture.
        assert stream.read() == DATA[10:]
    for use in (lambda: value.data, lambda: value.range(5), lambda: value.range(1, 5)):
        with pytest.raises(StoreError, match="have changed") as caught:
            use()
        assert caught.value.key == "key"
    assert store.to_bytes("key") == DATA[::-1]


def test_data_that_are_replaced_behind_a_date(connected, site):
    value = connected(etags=False).get("key")
    assert value.size == SIZE
    site.modified += 1
    with pytest.raises(StoreError, match="have changed"):
        value.data  # noqa: B018 - it raises


def test_a_weak_etag_is_the_same_etag(connected):
    weak = []

    def hook(handler):
        if handler.path.startswith("/data"):
            handler.reply(200, {"ETag": 'W/"a"' if weak else '"a"'}, b"0123456789", True)
            weak.append(1)
            return True
        return False

    value = connected(hook=hook, ranges=False).get("small")
    assert [read(value.data) for _ in range(3)] == [b"0123456789"] * 3


# Refusals


def test_data_that_are_missing_are_a_key_error(connected, site):
    store = connected()
    del site.data["key"]
    value = store.get("key")
    for use in (
        lambda: value.data,
        lambda: value.size,
        lambda: value.etag,
        lambda: value.range(1, 2),
        lambda: value.range(-100_000, -90_000),
        lambda: next(value.iterdata()),
        lambda: store.get_data("key"),
        lambda: store.get_data_range("key", 1, 2),
        lambda: store.to_bytes("key"),
    ):
        with pytest.raises(KeyError) as caught:
            use()
        assert caught.value.args == ("key",)


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthorizationError), (403, AuthorizationError), (410, KeyError), (404, KeyError),
     (418, StoreError), (500, TemporaryError)],
)  # fmt: skip
def test_refusals(connected, status, error):
    def hook(handler):
        if handler.path.startswith("/data"):
            handler.send_response(status)
            handler.send_header("Content-Length", "0")
            # Longer than anybody waits.
            handler.send_header("Retry-After", "3600")
            handler.end_headers()
            return True
        return False

    store = connected(hook=hook)
    for use in (lambda: store.get("key").data, lambda: store.get("key").size):
        with pytest.raises(error) as caught:
            use()
        if error is not KeyError:
            assert caught.value.key == "key"


def test_a_value_of_a_store_that_is_disconnected(connected):
    store = connected()
    value = store.get("key")
    store.disconnect()
    assert value.metadata == {"a": [1]}
    with pytest.raises(StoreError, match="not connected"):
        value.data  # noqa: B018 - it raises
    with pytest.raises(StoreError, match="not connected"):
        value.size  # noqa: B018 - it raises


# Without a store


def test_a_url_value_asks_for_ranges_as_well(site):
    with serving(site) as url:
        value = URLValue(f"{url}data/key")
        assert read(value.range(10, 20)) == DATA[10:20]
        assert asked(site) == [("GET", "bytes=10-19")]
        assert value.size == SIZE
        assert read(value.range(-5)) == DATA[-5:]
        assert asked(site) == [("GET", f"bytes={SIZE - 5}-{SIZE - 1}")]
        assert value.created is None
        assert value.modified == MODIFIED
