"""Names of stores around stores."""

from __future__ import annotations

import pytest

from encore.events.api import EventManager
from encore.storage import _chain
from encore.storage.api import (
    CachingStore,
    CheckedStore,
    DictMemoryStore,
    FileSystemStore,
    HashPrefixStore,
    JoinedStore,
    MetadataCachingStore,
    MountedStore,
    PrefixStore,
    ReadOnlyStore,
    RetryStore,
    SqliteStore,
    StoreError,
    open_store,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("readonly::memory:", ReadOnlyStore),
        ("prefix=a/::memory:", PrefixStore),
        ("hash::memory:", HashPrefixStore),
        ("hash=8::memory:", HashPrefixStore),
        ("checked::memory:", CheckedStore),
        ("checked=sha512::memory:", CheckedStore),
        ("retry::memory:", RetryStore),
        ("retry=5::memory:", RetryStore),
        ("metadata-cache::memory:", MetadataCachingStore),
        ("metadata-cache=0.5::memory:", MetadataCachingStore),
        ("cache:memory:::sqlite::memory:", CachingStore),
        ("cache=5:sqlite::memory:::memory:", CachingStore),
        ("joined:memory:::sqlite::memory:", JoinedStore),
        ("mount=a/:sqlite::memory:::memory:", MountedStore),
        ("mount=:memory:::memory:", MountedStore),
    ],
)
def test_each_wrapper_has_a_name(name, kind):
    manager = EventManager()
    store = open_store(name, event_manager=manager)
    assert type(store) is kind
    assert store.event_manager is manager
    with store:
        assert list(store.keys()) == []


def test_every_wrapper_is_documented():
    from encore._cli.arguments import STORES

    for _, _, usage in _chain.WRAPPERS.values():
        assert f"\n  {usage.replace('POINT:STORE', 'POINT:NEAR')}::STORE " in STORES
    for name in _chain.WRAPPERS:
        assert f"``{name}" in open_store.__doc__


def test_arguments_arrive():
    assert open_store("prefix=a=b:c/::memory:").prefix == "a=b:c/"
    assert open_store("hash=8::memory:").length == 8
    assert open_store("retry=5::memory:").policy.attempts == 5


def test_chains_of_many_links(folder):
    name = "readonly::prefix=a/::hash=2::joined:sqlite:x.db::prefix=b::fs:far"
    (folder / "far").mkdir()
    with open_store("fs:far", create=True) as far:
        far.from_bytes(f"b{HashPrefixStore(DictMemoryStore(), 2)._inner('a/key')}", b"data")
    with open_store("sqlite:x.db", create=True):
        pass
    with open_store(name) as store:
        kinds = []
        inner = store
        while not isinstance(inner, JoinedStore):
            kinds.append(type(inner))
            inner = inner.store
        assert kinds == [ReadOnlyStore, PrefixStore, HashPrefixStore]
        assert store.to_bytes("key") == b"data"


def test_what_is_written_is_made_and_nothing_else(folder):
    with open_store("prefix=a/::sqlite:x.db", create=True) as store:
        store.from_bytes("k", b"")
    with open_store("cache:sqlite:near.db::sqlite:x.db") as store:
        assert list(store.keys()) == ["a/k"]
    with pytest.raises(StoreError):
        open_store("joined:sqlite:new.db::sqlite:missing.db", create=True)
    with pytest.raises(StoreError):
        open_store("mount=a/:sqlite:missing.db::sqlite:x.db")
    with open_store("joined:sqlite:new.db::sqlite:x.db", create=True) as store:
        store.from_bytes("mine", b"")
    assert sorted(path.name for path in folder.glob("*.db")) == ["near.db", "new.db", "x.db"]


def test_what_cannot_be_written():
    with pytest.raises(StoreError, match="can only be read"):
        open_store("readonly::memory:", create=True)


def test_options_are_for_the_last_store():
    options = {"index": None, "durability": "process"}
    store = open_store("readonly::sqlite::memory:", options=options)
    assert isinstance(store.store, SqliteStore)
    with pytest.raises(ValueError, match="no option"):
        open_store("readonly::memory:", options=options)


def test_a_path_may_hold_double_colons():
    with open_store("fs:a::b", create=True) as store:
        assert isinstance(store, FileSystemStore)
    with open_store("prefix=a::fs:a::b") as store:
        assert list(store.keys()) == []


@pytest.mark.parametrize(
    "name",
    [
        "readonly::",
        "readonly:=::memory:",
        "readonly=1::memory:",
        "readonly:memory:",
        "prefix::memory:",
        "prefix=::memory:",
        "hash=x::memory:",
        "hash=33::memory:",
        "checked=nothing::memory:",
        "retry=0::memory:",
        "cache::memory:",
        "cache:::memory:",
        "cache:memory:::",
        "cache=x:memory:::memory:",
        "cache=-1:memory:::memory:",
        "cache:sqlite::memory:",
        "joined=1:memory:::memory:",
        "mount:memory:::memory:",
        "metadata-cache=x::memory:",
        "nothing::memory:",
        "readonly::nothing::memory:",
        "::",
        "::memory:",
    ],
)
def test_broken_chains_are_refused(name, folder):
    with pytest.raises(ValueError, match=r"it is|names no store|missing"):
        open_store(name)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("readonly::https://me:secret@host/x", "readonly::https://...@host/x"),
        ("bogus::https://me:secret@host/", "bogus::https://...@host/"),
        ("htps://me:secret@host/", "htps://...@host/"),
        ("readonly::htps://me:secret@host/", "readonly::htps://...@host/"),
        ("https:me:secret@host/", "https:...@host/"),
        ("https:/me:secret@host/", "https:...@host/"),
        ("https://me:sec/re@t::a@host/", "https://...@host/"),
        ("https://me:sec\nret@host/", "https://...@host/"),
        ("static:https://me:secret@host/", "static:https://...@host/"),
        ("me:secret@host", "...@host"),
        ("cache:https://me:secret@host/::fs:a@b", "cache:https://...@host/::fs:a@b"),
        ("cache:dir:/me@x/y::https://me:secret@host/", "cache:dir:/me@x/y::https://...@host/"),
        ("mount=a:https://me:secret@host/::memory:", "mount=a:https://...@host/::memory:"),
        ("fs:me@work", "fs:me@work"),
        ("readonly::sqlite:a::b@c", "readonly::sqlite:a::b@c"),
        ("https://host/", "https://host/"),
    ],
)
def test_a_name_is_shown_without_what_is_before_the_at_sign(name, shown):
    assert _chain.shown_name(name) == shown


@pytest.mark.parametrize(
    "name",
    [
        "readonly::https://me:secret@host/",
        "readonly=1::https://me:secret@host/",
        "readonly:https://me:secret@host/",
        "retry=https://me:secret@host/::memory:",
        "cache=https://me:secret@host/:memory:::memory:",
        "metadata-cache=https://me:secret@host/::memory:",
        "prefix=a::htps://me:secret@host/",
    ],
)
def test_no_error_of_a_chain_shows_a_password(name):
    with pytest.raises((ValueError, StoreError)) as caught:
        open_store(name, create=True)
    error = caught.value
    while error is not None:
        assert "secret" not in f"{error} {error!r}"
        error = error.__cause__
