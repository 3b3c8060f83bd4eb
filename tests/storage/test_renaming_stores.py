"""Stores whose keys have other names in the store within: PrefixStore and HashPrefixStore."""

from __future__ import annotations

import io
import ntpath
import pickle
import unittest

import pytest
from store_kits import DictKit, FileSystemKit, LockingFileSystemKit, SqliteKit, Wrapped

from encore.events.api import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent
from encore.storage.hash_prefix_store import HashPrefixStore, add_prefix, remove_prefix
from encore.storage.maintenance import Finding
from encore.storage.prefix_store import PrefixStore


class Prefixed(Wrapped):
    kills = 1

    def wrap(self, store, event_manager=None):
        return PrefixStore(store, "a*[b]/ö", event_manager=event_manager)


class Hashed(Wrapped):
    kills = 1

    def wrap(self, store, event_manager=None):
        return HashPrefixStore(store, event_manager=event_manager)

    def damage(self, store, key):
        return super().damage(store.store, add_prefix(key, 4))


class Twice(Prefixed):
    """A PrefixStore over a HashPrefixStore."""

    def wrap(self, store, event_manager=None):
        return super().wrap(HashPrefixStore(store, event_manager=EventManager()), event_manager)

    def make_handle(self, store):
        return super().make_handle(store.store)

    def failing_commit(self, store):
        return super().failing_commit(store.store)

    def damage(self, store, key):
        return False


class PrefixedSqliteKit(Prefixed, SqliteKit):
    def damage(self, store, key):
        return super().damage(store.store, f"a*[b]/ö{key}")


class TestPrefixOverDictMemoryStore(Prefixed, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestPrefixOverSqliteStore(PrefixedSqliteKit, unittest.TestCase):
    pass


class TestHashPrefixOverDictMemoryStore(Hashed, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestHashPrefixOverSqliteStore(Hashed, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestPrefixOverFileSystemStore(Prefixed, FileSystemKit, unittest.TestCase):
    def damage(self, store, key):
        return False


@pytest.mark.slow
class TestHashPrefixOverLockingFileSystemStore(Hashed, LockingFileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestBothOverSqliteStore(Twice, SqliteKit, unittest.TestCase):
    pass


@pytest.fixture
def inner():
    return DictMemoryStore(event_manager=EventManager())


def test_a_prefix_is_a_namespace(inner):
    for key in ("a", "a/", "a/x", "a/b/x", "b/x", "A/x"):
        inner.set(key, (io.BytesIO(key.encode()), {"key": key}))
    store = PrefixStore(inner, "a/")
    assert sorted(store.query_keys()) == sorted(store.glob("*")) == list(store.keys())
    assert list(store.keys()) == ["b/x", "x"]
    assert dict(store.query()) == {"b/x": {"key": "a/b/x"}, "x": {"key": "a/x"}}
    assert list(store.query_keys(key="a/x")) == ["x"]
    assert list(store.query_keys(key="b/x")) == []
    assert list(store.keys(start_after="b/x")) == ["x"]
    assert list(store.keys(limit=1)) == ["b/x"]
    store.delete("x")
    assert not inner.exists("a/x")


def test_a_prefix_that_looks_like_a_drive_is_none(inner, monkeypatch):
    monkeypatch.setattr("os.path.splitdrive", ntpath.splitdrive)
    store = PrefixStore(inner, "//[a]/*/")
    store.from_bytes("x", b"")
    assert list(store.glob("?")) == ["x"]


def test_an_empty_prefix_shows_everything(inner):
    inner.from_bytes("a", b"")
    assert list(PrefixStore(inner, "").keys()) == ["a"]
    assert list(PrefixStore(inner, "").keys("a", limit=3)) == ["a"]


def test_what_has_another_name_within_is_told_by_its_own(inner):
    manager = EventManager()
    store = PrefixStore(inner, "a/", event_manager=manager)
    heard = []
    for source in (manager, inner.event_manager):
        source.connect(
            StoreModificationEvent, lambda event: heard.append((event.source, event.key))
        )
    store.from_bytes("x", b"")
    assert heard == [(inner, "a/x"), (store, "x")]
    with pytest.raises(KeyError) as caught:
        store.get("y")
    assert caught.value.args == ("y",)


def test_errors_carry_the_key_as_given(inner, monkeypatch):
    def refuse(key, *args):
        raise StoreError("no", key=key)

    monkeypatch.setattr(inner, "get", refuse)
    with pytest.raises(StoreError) as caught:
        HashPrefixStore(inner).get("x")
    assert caught.value.key == "x"


def test_a_key_error_of_a_callers_stream_is_the_callers(inner):
    class Stream:
        def read(self, size):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        PrefixStore(inner, "a/").set_data("x", Stream())


def test_findings_of_other_keys_are_left_out(inner, monkeypatch):
    found = [Finding("a/x", "odd"), Finding("b/x", "odd"), Finding(None, "all odd")]
    monkeypatch.setattr(inner, "check", lambda: found)
    assert PrefixStore(inner, "a/").check() == [Finding("x", "odd"), Finding(None, "all odd")]


def test_the_digits_of_a_key():
    assert add_prefix("asdf", 4) == "912easdf"
    assert add_prefix("asdf", 0) == "asdf"
    assert add_prefix("asdf", 32) == "912ec803b2ce49e4a541068d495ab570asdf"
    for length in range(33):
        assert remove_prefix(add_prefix("ö", length), length) == "ö"
    assert remove_prefix("912fasdf", 4) is None
    assert remove_prefix("d41d", 4) is None  # the digits of the empty key, which is none
    assert remove_prefix("", 0) is None


@pytest.mark.parametrize(
    ("length", "error"), [(33, ValueError), (-1, ValueError), (True, TypeError), ("4", TypeError)]
)
def test_a_length_that_is_none(inner, length, error):
    for call in (
        lambda: HashPrefixStore(inner, length),
        lambda: add_prefix("a", length),
        lambda: remove_prefix("a", length),
    ):
        with pytest.raises(error):
            call()


def test_keys_without_their_digits_are_not_seen(inner):
    for key in ("912easdf", "912fasdf", "asdf", "a"):
        inner.from_bytes(key, b"")
    assert list(HashPrefixStore(inner).keys()) == ["asdf"]


@pytest.mark.parametrize(
    ("prefix", "error"),
    [(b"a", TypeError), (None, TypeError), ("\ud800", ValueError), ("ö" * 512, ValueError)],
)
def test_a_prefix_that_is_none(inner, prefix, error):
    with pytest.raises(error):
        PrefixStore(inner, prefix)


@pytest.mark.parametrize("make", [lambda store: PrefixStore(store, "a/"), HashPrefixStore])
def test_pickled_and_shown(inner, make):
    store = make(inner)
    store.from_bytes("x", b"data")
    assert pickle.loads(pickle.dumps(store)).to_bytes("x") == b"data"
    assert repr(inner) in repr(store)
