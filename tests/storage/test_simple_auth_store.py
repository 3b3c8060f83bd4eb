"""SimpleAuthStore: nothing works without a login, and every method asks what is permitted."""

from __future__ import annotations

import io
import pickle
import sqlite3
import unittest
from contextlib import closing

import pytest
from logged_in import (
    BOB,
    DecidingStore,
    LoggedInStore,
    contents,
    logged_in,
    quick_encoder,
    raised,
    stream,
)
from store_kits import DictKit, FileSystemKit, LockingFileSystemKit, SqliteKit, Wrapped

from encore.events.event_manager import EventManager
from encore.storage._guarded_store import GuardedStore
from encore.storage.abstract_store import AbstractStore
from encore.storage.caching_store import CachingStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import AuthorizationError, StoreError
from encore.storage.events import (
    StoreEvent,
    StoreModificationEvent,
    StoreSetEvent,
    StoreTransactionEvent,
    StoreUpdateEvent,
)
from encore.storage.hash_prefix_store import HashPrefixStore, add_prefix
from encore.storage.joined_store import JoinedStore
from encore.storage.mounted_store import MountedStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.simple_auth_store import (
    AuthenticationError,
    HiddenKeyError,
    SimpleAuthStore,
    make_encoder,
)
from encore.storage.sqlite_store import SqliteStore
from encore.storage.string_value import StringValue
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import check_store, random_steps, same, transcript

# The conformance kit


class LoggedIn(Wrapped):
    kills = 1

    def wrap(self, store, event_manager=None):
        return logged_in(store, event_manager)


class Deciding(Wrapped):
    kills = 1

    def wrap(self, store, event_manager=None):
        return logged_in(store, event_manager, DecidingStore)


class TwoDeep(LoggedIn):
    """Around a store that renames the keys of tokens."""

    def wrap(self, store, event_manager=None):
        inner = PrefixStore(store, "inner/", event_manager=EventManager())
        return super().wrap(inner, event_manager)

    def make_handle(self, store):
        # The mixin looks one deep.
        inner = super(Wrapped, self).make_handle(store.store.store)
        return None if inner is None else self.wrap(inner)

    def failing_commit(self, store):
        return super().failing_commit(store.store)


class TestOverDictMemoryStore(LoggedIn, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestOverSqliteStore(Deciding, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestOverFileSystemStore(LoggedIn, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestOverLockingFileSystemStore(LoggedIn, LockingFileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestTwoDeepOverDictMemoryStore(TwoDeep, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestTwoDeepOverSqliteStore(TwoDeep, SqliteKit, unittest.TestCase):
    pass


# Random sequences, with the same outcome as on a plain store


@pytest.mark.parametrize("seed", range(4))
def test_it_does_what_the_model_does(seed):
    check_store(lambda manager: logged_in(DictMemoryStore(), manager), seed, 150)


@pytest.mark.parametrize("seed", range(100, 102))
@pytest.mark.parametrize("kind", [LoggedInStore, DecidingStore])
def test_its_transcript_is_that_of_a_plain_store(seed, kind):
    steps = random_steps(seed, 150)
    plain = transcript(lambda manager: DictMemoryStore(event_manager=manager), steps)
    assert same(transcript(lambda m: logged_in(DictMemoryStore(), m, kind), steps), plain)
    renamed = transcript(lambda m: logged_in(PrefixStore(SqliteStore(), "p/"), m, kind), steps)
    assert same(renamed, plain)


# What every public method needs

ALL = {"connect", "exists", "get", "set", "delete"}


class Closed:
    """A stream that must not be touched."""

    def read(self, size):
        raise AssertionError("the stream was read")


def in_transaction(store, key):
    with store.transaction("note"):
        store.set(key, (stream(), {}))


def unless_changed(store, key):
    """Return the condition that the store has what it has."""
    try:
        return {"if_match": store.store.get(key).etag}
    except KeyError:
        return {"if_match": "none"}


# How a method is called for one key, and what is needed for it.
OF_A_KEY = {
    "get": (lambda s, k, path: s.get(k), {"exists", "get"}),
    "get_data": (lambda s, k, path: s.get_data(k).close(), {"exists", "get"}),
    "get_data_range": (lambda s, k, path: s.get_data_range(k, 0, 1).close(), {"exists", "get"}),
    "get_metadata": (lambda s, k, path: s.get_metadata(k), {"exists", "get"}),
    "to_bytes": (lambda s, k, path: s.to_bytes(k), {"exists", "get"}),
    "to_file": (lambda s, k, path: s.to_file(k, path), {"exists", "get"}),
    "multiget": (lambda s, k, path: list(s.multiget([k])), {"exists", "get"}),
    "multiget_data": (
        lambda s, k, path: [each.close() for each in s.multiget_data([k])],
        {"exists", "get"},
    ),
    "multiget_metadata": (lambda s, k, path: list(s.multiget_metadata([k])), {"exists", "get"}),
    "set": (lambda s, k, path: s.set(k, (stream(), {})), {"set"}),
    "set_data": (lambda s, k, path: s.set_data(k, stream()), {"set"}),
    "set_metadata": (lambda s, k, path: s.set_metadata(k, {"n": 2}), {"set"}),
    "update_metadata": (lambda s, k, path: s.update_metadata(k, {"n": 2}), {"exists", "set"}),
    "from_bytes": (lambda s, k, path: s.from_bytes(k, b"new"), {"set"}),
    "from_file": (lambda s, k, path: s.from_file(k, stream()), {"set"}),
    "multiset": (lambda s, k, path: s.multiset([k], [(stream(), {})]), {"set"}),
    "multiset_data": (lambda s, k, path: s.multiset_data([k], [stream()]), {"set"}),
    "multiset_metadata": (lambda s, k, path: s.multiset_metadata([k], [{}]), {"set"}),
    "multiupdate_metadata": (
        lambda s, k, path: s.multiupdate_metadata([k], [{}]),
        {"exists", "set"},
    ),
    "delete": (lambda s, k, path: s.delete(k), {"exists", "delete"}),
    # Their answers would tell whether there is such a key.
    "set if": (
        lambda s, k, path: s.set(k, (stream(), {}), **unless_changed(s, k)),
        {"exists", "set"},
    ),
    "set_data if": (
        lambda s, k, path: s.set_data(k, stream(), **unless_changed(s, k)),
        {"exists", "set"},
    ),
    "set_metadata if": (
        lambda s, k, path: s.set_metadata(k, {}, **unless_changed(s, k)),
        {"exists", "set"},
    ),
    "copy": (lambda s, k, path: s.copy(k, "free"), {"exists", "get"}),
    "copy to": (lambda s, k, path: s.copy("free", k), {"set"}),
    "move": (lambda s, k, path: s.move(k, "free"), {"exists", "get", "delete"}),
    "move to": (lambda s, k, path: s.move("free", k), {"set"}),
    "transaction": (lambda s, k, path: in_transaction(s, k), {"set"}),
}
# The mapping; what it has from collections.abc is made of these.
OF_AN_ITEM = {
    "__getitem__": (lambda m, k: m[k], {"exists", "get"}),
    "__setitem__": (lambda m, k: m.update({k: b"new"}), {"set"}),
    "__delitem__": (lambda m, k: m.__delitem__(k), {"exists", "delete"}),
}
# What needs no more than a login, for the store as a whole.
OF_ALL = {
    "exists": lambda s: s.exists("secret"),
    "query": lambda s: list(s.query()),
    "query_keys": lambda s: list(s.query_keys()),
    "glob": lambda s: list(s.glob("*")),
    "keys": lambda s: list(s.keys()),
    "check": lambda s: s.check(),
    "mapping": lambda s: list(s.mapping()),
    "transaction": lambda s: s.transaction("note"),
}
# What needs no login.
FREE = {
    "add_user",
    "change_password",
    "check_permissions",
    "connect",
    "disconnect",
    "encoder",
    "info",
    "is_connected",
    "remove_user",
    "user_key_path",
    "user_key_store",
    "username",
    "users",
}


@pytest.fixture
def inner():
    store = DictMemoryStore(event_manager=EventManager())
    store.set("secret", (io.BytesIO(b"data"), {"n": 1}))
    store.set("free", (io.BytesIO(b"other"), {"n": 1}))
    return store


@pytest.fixture
def store(inner):
    store = SimpleAuthStore(inner, quick_encoder, event_manager=EventManager())
    store.add_user("bob", "pw")
    store.add_user("eve", "pw")
    store.connect(BOB)
    return store


class PickyStore(SimpleAuthStore):
    """Everything is permitted, but not with 'secret', nor with a key that is not there."""

    given = frozenset(ALL)

    def check_permissions(self, key=None):
        return self.given if key in ("secret", "nowhere") else ALL


@pytest.fixture
def picky(inner):
    store = PickyStore(inner, quick_encoder, event_manager=EventManager())
    store.add_user("bob", "pw")
    store.connect(BOB)
    return store


def test_no_public_method_is_forgotten():
    public = {name for name in dir(SimpleAuthStore) if not name.startswith("_")}
    methods = {name.partition(" ")[0] for name in OF_A_KEY}
    assert public == methods | set(OF_ALL) | FREE
    assert {name for name in dir(AbstractStore) if not name.startswith("_")} <= public
    # Nothing public of it is an inherited one that asks nobody, but for what is made of others.
    asking = {*vars(SimpleAuthStore), *vars(GuardedStore)}
    assert {name for name in methods | set(OF_ALL) if name not in asking} == set()


@pytest.mark.parametrize("login", ["none yet", "failed", "ended", "disconnected"])
@pytest.mark.parametrize("name", [*OF_A_KEY, *OF_ALL, "__enter__"])
def test_nothing_works_without_a_login(name, login, inner, tmp_path):
    store = SimpleAuthStore(inner, quick_encoder, event_manager=EventManager())
    store.add_user("bob", "pw")
    if login == "failed":
        with pytest.raises(AuthenticationError):
            store.connect({"username": "bob", "password": "wrong"})
    elif login != "none yet":
        store.connect(BOB)
        assert store.to_bytes("secret") == b"data"
        if login == "ended":
            store.remove_user("bob")
        else:
            store.disconnect()
    before = contents(inner)
    assert store.is_connected() is False
    path = tmp_path / "file"
    for key in ("secret", "nowhere"):
        if name == "__enter__":
            error = raised(store.__enter__)
        elif name in OF_ALL:
            error = raised(OF_ALL[name], store)
        else:
            error = raised(OF_A_KEY[name][0], store, key, path)
        assert type(error) is AuthenticationError
        assert "not connected" in str(error)
    assert contents(inner) == before
    assert not path.exists()


@pytest.mark.parametrize("name", OF_A_KEY)
def test_every_method_of_a_key_asks_what_is_permitted(name, picky, inner, tmp_path):
    call, needed = OF_A_KEY[name]
    before = contents(inner)
    path = tmp_path / "file"
    for missing in needed:
        picky.given = ALL - {missing}
        errors = [raised(call, picky, key, path) for key in ("secret", "nowhere")]
        for error, key in zip(errors, ("secret", "nowhere"), strict=True):
            assert isinstance(error, AuthenticationError)
            assert isinstance(error, AuthorizationError)
            # Not to know whether it is there is as if it was not there.
            assert isinstance(error, KeyError) == (missing == "exists")
            assert error.key == key
        # It tells nothing: all is the same with a key that is not there.
        assert type(errors[0]) is type(errors[1])
        assert str(errors[0]).replace("secret", "nowhere") == str(errors[1])
        assert contents(inner) == before
        assert not path.exists()
    picky.given = needed
    assert raised(call, picky, "secret", path) is None


def test_a_refused_method_does_not_touch_a_stream(picky):
    picky.given = set()
    for call in (
        lambda: picky.set("secret", (Closed(), {})),
        lambda: picky.set_data("secret", Closed()),
        lambda: picky.from_file("secret", Closed()),
        lambda: picky.multiset(["secret"], [(Closed(), {})]),
        lambda: picky.multiset_data(["secret"], [Closed()]),
    ):
        assert isinstance(raised(call), HiddenKeyError)


@pytest.mark.parametrize("name", OF_AN_ITEM)
def test_the_mapping_asks_too(name, picky, inner):
    call, needed = OF_AN_ITEM[name]
    mapping = picky.mapping()
    before = contents(inner)
    for missing in needed:
        picky.given = ALL - {missing}
        for key in ("secret", "nowhere"):
            error = raised(call, mapping, key)
            assert isinstance(error, AuthenticationError)
            assert isinstance(error, KeyError) == (missing == "exists")
    assert contents(inner) == before
    picky.given = needed
    assert raised(call, mapping, "secret") is None
    picky.disconnect()
    for use in (call, lambda m, k: k in m, lambda m, k: len(m), lambda m, k: list(m)):
        assert type(raised(use, mapping, "secret")) is AuthenticationError
    assert type(raised(mapping.clear)) is AuthenticationError


@pytest.mark.parametrize("name", OF_A_KEY)
def test_a_refusal_in_a_transaction_rolls_it_back(name, picky, inner, tmp_path):
    call, needed = OF_A_KEY[name]
    before = contents(inner)
    picky.given = ALL - set(sorted(needed)[:1])

    def change():
        with picky.transaction("note"):
            picky.from_bytes("free", b"changed")
            call(picky, "secret", tmp_path / "file")

    assert isinstance(raised(change), AuthenticationError)
    assert contents(inner) == before


def test_a_key_that_may_not_be_seen_does_not_exist(picky):
    picky.given = {"get", "set", "delete"}
    assert picky.exists("secret") is False
    assert "secret" not in picky.mapping()
    assert picky.mapping().get("secret", b"nothing") == b"nothing"
    with pytest.raises(KeyError) as caught:
        picky.get("secret")
    assert caught.value.args == ("secret",)
    assert str(caught.value) == "not permitted: 'secret'"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.args, again.key) == (HiddenKeyError, ("secret",), "secret")


def test_listings_show_what_is_permitted(picky, inner):
    assert list(picky.keys()) == ["free", "secret"]
    picky.given = {"exists"}
    for found in (picky.query_keys(), picky.glob("*"), picky.keys(), picky.mapping()):
        assert sorted(found) == ["free", "secret"]
    # These tell what the metadata are.
    for found in (picky.query_keys(n=1), picky.query_keys(where={"n": 1})):
        assert list(found) == ["free"]
    assert list(picky.query()) == list(picky.query(n=1)) == [("free", {"n": 1})]
    assert list(picky.query(["n"], where={"n": 1})) == [("free", {"n": 1})]
    picky.given = {"get"}
    for found in (picky.query_keys(), picky.glob("*"), picky.keys(), picky.mapping()):
        assert list(found) == ["free"]
    assert [key for key, _ in picky.query()] == ["free"]


def test_pages_are_full_whatever_is_hidden(inner):
    class Odd(SimpleAuthStore):
        def check_permissions(self, key=None):
            return ALL if key is None or not key.startswith("n") or int(key[1:]) % 7 == 0 else set()

    store = Odd(inner, quick_encoder, user_key_path="n05")
    for number in range(100, 600):
        inner.from_bytes(f"n{number:03}", b"")
    for number in range(200):
        store.add_user(f"{number}", "pw")
    store.connect({"username": "7", "password": "pw"})
    expected = ["free", *(f"n{n}" for n in range(100, 600) if n % 7 == 0), "secret"]
    assert list(store.keys()) == expected
    for size in (1, 2, 3, 50, 1000):
        found, last = [], None
        while page := list(store.keys(start_after=last, limit=size)):
            assert len(page) == size or page[-1] == "secret"
            found += page
            last = page[-1]
        assert found == expected
    assert list(store.keys("n05", limit=3)) == []
    assert list(store.keys(limit=0)) == []
    assert list(store.keys("n2", "n210", 2)) == ["n217", "n224"]


@pytest.mark.parametrize("renamed", [False, True])
def test_a_page_does_not_look_at_all_users(inner, renamed):
    asked = []

    class Counting(PrefixStore if renamed else WrapperStore):
        def keys(self, prefix="", start_after=None, limit=None):
            asked.append(limit)
            return super().keys(prefix, start_after, limit)

    data = Counting(inner, *(["p/"] if renamed else []))
    store = SimpleAuthStore(data, quick_encoder)
    for number in range(5000):
        data.from_bytes(f".user_{number}", b"token")
    store.add_user("bob", "pw")
    store.connect(BOB)
    store.from_bytes("last", b"")
    assert list(store.keys(limit=1, start_after="g")) == ["last"]
    assert list(store.keys(limit=1)) == (["last"] if renamed else ["free"])
    assert sum(asked) < 50


def test_a_page_of_few_among_many_hidden_keys_does_not_go_one_by_one(inner):
    asked = []

    class Counting(WrapperStore):
        def keys(self, prefix="", start_after=None, limit=None):
            asked.append(limit)
            return super().keys(prefix, start_after, limit)

    class Hiding(SimpleAuthStore):
        def check_permissions(self, key=None):
            return set() if key is not None and key.startswith("hidden") else ALL

    for number in range(2000):
        inner.from_bytes(f"hidden{number}", b"")
    store = Hiding(Counting(inner), quick_encoder)
    store.add_user("bob", "pw")
    store.connect(BOB)
    assert list(store.keys(limit=2)) == ["free", "secret"]
    assert len(asked) < 12


def test_a_listing_asks_as_it_comes_to_the_keys(inner):
    asked = []

    class Asking(SimpleAuthStore):
        def check_permissions(self, key=None):
            asked.append(key)
            if key == "key5":
                raise LookupError("cannot tell")
            return ALL

    for number in range(10):
        inner.from_bytes(f"key{number}", b"")
    store = Asking(inner, quick_encoder)
    store.add_user("bob", "pw")
    store.connect(BOB)
    for walk in (store.keys("key"), store.glob("key*"), store.keys("key", limit=9)):
        asked.clear()
        assert asked == []
        assert next(walk) == "key0"
        assert asked == ["key0"]
        with pytest.raises(LookupError, match="cannot tell"):
            list(walk)
    for call in (store.get, store.exists, store.delete, lambda k: store.set(k, (Closed(), {}))):
        with pytest.raises(LookupError, match="cannot tell"):
            call("key5")


@pytest.mark.parametrize("given", [{"set", "delete", "exists"}, ALL])
def test_events_tell_nothing_of_what_may_not_be_read(picky, given):
    heard = []
    picky.event_manager.connect(StoreModificationEvent, lambda event: heard.append(event.metadata))
    picky.set_metadata("secret", {"n": 1})
    picky.given = frozenset(given)
    heard.clear()
    picky.update_metadata("secret", {"m": 2})
    picky.delete("secret")
    assert heard == ([{"n": 1, "m": 2}] * 2 if given == ALL else [{}, {}])


def test_a_change_is_told_even_if_it_cannot_be_said_what_is_permitted(inner):
    heard, questions = [], iter([ALL, ALL])

    class Failing(SimpleAuthStore):
        def check_permissions(self, key=None):
            return next(questions)

    store = Failing(inner, quick_encoder, event_manager=EventManager())
    store.event_manager.connect(StoreModificationEvent, lambda event: heard.append(event.metadata))
    store.add_user("bob", "pw")
    store.connect(BOB)
    store.set_metadata("secret", {"n": 1})
    assert heard == [{}]


@pytest.mark.parametrize("given", ["getset", "get exists", None, (), [], "exists"])
def test_what_is_no_set_of_permissions_permits_nothing(picky, given):
    picky.given = given
    for call in (picky.get, picky.delete, lambda k: picky.set(k, (Closed(), {}))):
        with pytest.raises(AuthorizationError):
            call("secret")
    assert picky.exists("secret") is False


def test_permissions_may_be_any_iterable(picky):
    picky.given = ["exists", "get"]
    assert picky.to_bytes("secret") == b"data"


def test_check_permissions_may_be_set_on_the_store(store):
    assert store.user_key_path == ".user_"
    assert store.to_bytes("free") == b"other"
    store.check_permissions = lambda key=None: set()
    with pytest.raises(HiddenKeyError):
        store.to_bytes("free")
    assert list(store.keys()) == list(store.query()) == []


def test_the_default_is_all_or_nothing(inner):
    store = SimpleAuthStore(inner, quick_encoder)
    store.add_user("bob", "pw")
    assert store.check_permissions() == store.check_permissions("secret") == set()
    store.connect(BOB)
    assert store.check_permissions() == store.check_permissions("secret") == ALL
    assert store.check_permissions(".user_bob") == set()
    store.check_permissions().clear()
    assert store.check_permissions() == ALL
    store.remove_user("bob")
    assert store.check_permissions() == set()
    with pytest.raises(TypeError):
        store.check_permissions(5)


def test_connect_is_a_permission(inner):
    class Club(SimpleAuthStore):
        def check_permissions(self, key=None):
            assert self.store.is_connected()
            permissions = super().check_permissions(key)
            return permissions if self.username == "bob" else permissions - {"connect"}

    store = Club(inner, quick_encoder)
    inner.connect()
    store.add_user("bob", "pw")
    store.add_user("eve", "pw")
    with pytest.raises(AuthenticationError, match="may not connect"):
        store.connect({"username": "eve", "password": "pw"})
    assert not store.is_connected()
    assert store.username is None
    assert type(raised(store.get, "secret")) is AuthenticationError
    store.connect(BOB)
    with pytest.raises(AuthenticationError):
        store.connect({"username": "eve", "password": "pw"})
    assert store.username == "bob"
    assert store.to_bytes("secret") == b"data"


def test_an_overridden_method_is_what_others_are_made_of(inner):
    class Loud(SimpleAuthStore):
        def get(self, key):
            value = super().get(key)
            return StringValue(value.data.read().upper(), value.metadata)

        def set(self, key, value, buffer_size=1048576):
            super().set(key, value, buffer_size)
            sets.append(key)

    sets = []
    store = Loud(inner, quick_encoder)
    store.add_user("bob", "pw")
    store.connect(BOB)
    assert store.to_bytes("secret") == store.get_data("secret").read() == b"DATA"
    assert store.mapping()["secret"] == b"DATA"
    store.from_bytes("a", b"1")
    store.multiset(["b"], [(stream(), {})])
    assert sets == ["a", "b"]
    assert isinstance(raised(store.to_bytes, ".user_bob"), HiddenKeyError)


def test_subclasses_of_the_wrapper_keep_their_hooks(inner):
    class Noting(SimpleAuthStore):
        def _write(self, call, method, key, /, *args, **conditions):
            noted.append((method, key))
            super()._write(call, method, key, *args, **conditions)

    noted = []
    store = Noting(inner, quick_encoder, event_manager=EventManager())
    store.add_user("bob", "pw")
    store.connect(BOB)
    for _ in range(3):
        store.set("a", (stream(), {}))
    store.from_bytes("a", b"")
    assert noted == [*[("set", "a")] * 3, ("set_data", "a")]


def test_bad_arguments_come_first(picky, inner):
    picky.given = set()
    other = SimpleAuthStore(inner, quick_encoder)
    for store in (picky, other):
        for error, call in (
            (TypeError, lambda s: s.get(5)),
            (ValueError, lambda s: s.exists("")),
            (TypeError, lambda s: s.set("secret", b"data")),
            (TypeError, lambda s: s.set("secret", (Closed(), None))),
            (ValueError, lambda s: s.set("secret", (Closed(), {}), 0)),
            (ValueError, lambda s: s.set("secret", (Closed(), {}), if_none_match="x")),
            (TypeError, lambda s: s.set_data("secret", b"data")),
            (ValueError, lambda s: s.set_metadata("secret", {"n": float("nan")})),
            (TypeError, lambda s: s.update_metadata("secret", None)),
            (TypeError, lambda s: s.from_bytes("secret", "text")),
            (TypeError, lambda s: s.get_data_range("secret", "x")),
            (TypeError, lambda s: s.get_metadata("secret", 5)),
            (ValueError, lambda s: s.to_bytes("secret", -1)),
            (TypeError, lambda s: s.to_file("secret", 5.5)),
            (ValueError, lambda s: s.delete("secret", if_match="a", if_none_match="*")),
            (ValueError, lambda s: s.copy("secret", "")),
            (TypeError, lambda s: s.move(5, "secret")),
        ):
            found = raised(call, store)
            assert type(found) is error, found


# The keys of tokens


@pytest.mark.parametrize("key", [".user_bob", ".user_eve", ".user_", ".user_nobody"])
@pytest.mark.parametrize("name", OF_A_KEY)
def test_keys_of_tokens_can_be_neither_seen_nor_changed(name, key, store, inner, tmp_path):
    before = contents(inner)
    for error in (
        raised(OF_A_KEY[name][0], store, key, tmp_path / "file"),
        raised(OF_A_KEY[name][0], WrapperStore(store), key, tmp_path / "file"),
    ):
        assert isinstance(error, AuthorizationError)
        assert isinstance(error, HiddenKeyError)
    assert contents(inner) == before
    assert not (tmp_path / "file").exists()
    assert store.exists(key) is False
    assert key not in store.mapping()


@pytest.mark.parametrize("depth", [1, 3])
def test_listings_leave_keys_of_tokens_out(inner, depth):
    wrapped = inner
    for _ in range(depth):
        wrapped = WrapperStore(wrapped)
    store = SimpleAuthStore(wrapped, quick_encoder, event_manager=EventManager())
    store.add_user("bob", "pw")
    inner.set_metadata(".user_bob", {"n": 1})
    store.connect(BOB)
    for shown in (store, WrapperStore(store), PrefixStore(store, ""), ReadOnlyStore(store)):
        for found in (
            shown.query_keys(),
            shown.query_keys(n=1),
            shown.query_keys(where={"n": 1}),
            shown.glob("*"),
            shown.keys(),
            shown.keys(limit=5),
            shown.mapping(),
        ):
            assert sorted(found) == ["free", "secret"]
        assert sorted(key for key, _ in shown.query()) == ["free", "secret"]
        assert sorted(key for key, _ in shown.query(n=1)) == ["free", "secret"]
        assert list(shown.glob(".user_*")) == list(shown.keys(".user_")) == []
        assert shown.check() == []
        assert len(shown.mapping()) == 2


def test_check_tells_of_what_may_be_read(tmp_path):
    with SqliteStore(tmp_path / "x.db", durability="process") as inner:
        store = PickyStore(inner, quick_encoder)
        store.add_user("bob", "pw")
        for key in ("secret", "free"):
            inner.from_bytes(key, b"data")
        store.connect(BOB)
        with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
            connection.execute("update store set metadata = x'80ff' where key not like '.%'")
        assert {each.key for each in inner.check()} == {"free", "secret"}
        assert {each.key for each in store.check()} == {"free", "secret"}
        store.given = {"exists"}
        assert {each.key for each in store.check()} == {"free"}


def test_a_user_store_of_its_own_leaves_all_keys_to_the_data(inner):
    users = DictMemoryStore()
    store = SimpleAuthStore(inner, quick_encoder, "", users)
    store.add_user("bob", "pw")
    store.connect(BOB)
    store.from_bytes(".user_bob", b"data")
    assert store.to_bytes(".user_bob") == b"data"
    assert list(users.keys()) == ["bob"]
    assert sorted(store.keys()) == [".user_bob", "free", "secret"]
    assert not store.exists("bob")
    store.from_bytes("bob", b"data")
    assert users.to_bytes("bob") == quick_encoder(b"pw")


def test_without_one_a_path_is_needed(inner):
    for store, users in (
        (inner, None),
        (inner, inner),
        (WrapperStore(inner), inner),
        (inner, WrapperStore(inner)),
        (Several(inner, DictMemoryStore()), inner),
    ):
        with pytest.raises(ValueError, match="user_key_path"):
            SimpleAuthStore(store, quick_encoder, "", users)
    with pytest.raises(ValueError, match="key"):
        SimpleAuthStore(inner, quick_encoder, "x" * 1025)
    for bad in (5, None, b"user"):
        with pytest.raises(TypeError):
            SimpleAuthStore(inner, quick_encoder, bad)
        with pytest.raises(TypeError):
            SimpleAuthStore(inner, quick_encoder, "user", bad or "")
    with pytest.raises(TypeError, match="encoder"):
        SimpleAuthStore(inner, b"salt")
    with pytest.raises(TypeError):
        SimpleAuthStore({}, quick_encoder)
    with pytest.raises(TypeError, match="event_manager="):
        SimpleAuthStore(EventManager(), inner, quick_encoder)
    with pytest.raises(TypeError, match="event_manager="):
        SimpleAuthStore(inner, quick_encoder, ".user_", EventManager())


class Several(WrapperStore):
    """What is a store of two."""

    def __init__(self, store, other):
        super().__init__(store)
        self.others = [other]


@pytest.mark.parametrize(
    ("make", "path", "name"),
    [
        (lambda d: (d, PrefixStore(d, "users/")), "", "users/bob"),
        (lambda d: (d, PrefixStore(d, "users/")), "x", "users/xbob"),
        (lambda d: (d, HashPrefixStore(d, 4)), "x", add_prefix("xbob", 4)),
        (lambda d: (d, PrefixStore(PrefixStore(d, "a/"), "b/")), "x", "a/b/xbob"),
        (lambda d: (PrefixStore(d, "us"), d), "users/", "ers/bob"),
        (lambda d: (PrefixStore(d, "u"), PrefixStore(d, "users/")), "", "sers/bob"),
        (lambda d: (WrapperStore(d), d), "users/", "users/bob"),
        (lambda d: (Several(d, DictMemoryStore()), d), "users/", "users/bob"),
        (lambda d: (Several(DictMemoryStore(), d), PrefixStore(d, "a/")), "users/", "a/users/bob"),
    ],
)
def test_tokens_cannot_be_reached_by_other_names(inner, make, path, name):
    data, users = make(inner)
    store = SimpleAuthStore(data, quick_encoder, path, users)
    store.add_user("bob", "pw")
    store.connect(BOB)
    before = contents(inner)
    assert store.exists(name) is False
    for call in (store.to_bytes, store.delete, lambda k: store.from_bytes(k, b"x")):
        assert isinstance(raised(call, name), HiddenKeyError)
    assert name not in list(store.keys())
    assert list(store.keys(limit=9)) == list(store.keys())
    assert contents(inner) == before
    store.from_bytes("else", b"data")
    assert store.to_bytes("else") == b"data"


def test_namespaces_that_do_not_meet_are_open(inner):
    store = SimpleAuthStore(PrefixStore(inner, "a/"), None, "", PrefixStore(inner, "b/"))
    users = PrefixStore(inner, "b/")
    users.from_bytes("bob", make_encoder(b"")(b"pw"))
    store.encoder = make_encoder(b"")
    store.connect(BOB)
    store.from_bytes("b/bob", b"data")
    assert list(store.keys()) == ["b/bob"]
    assert inner.to_bytes("a/b/bob") == b"data"


def test_changes_of_tokens_are_not_told(store, inner):
    heard = []
    store.event_manager.connect(StoreEvent, heard.append)
    store.add_user("new", "pw")
    store.change_password("new", "other")
    store.remove_user("new")
    store.connect(BOB)
    assert heard == []


def test_a_change_of_a_token_that_goes_with_another_is_not_told(inner):
    class Planting(WrapperStore):
        def _write(self, call, method, key, /, *args, **conditions):
            super()._write(call, method, key, *args, **conditions)
            call("set_data", ".user_planted", stream())

    store = SimpleAuthStore(
        Planting(inner, event_manager=EventManager()), quick_encoder, event_manager=EventManager()
    )
    inner.from_bytes(".user_bob", quick_encoder(b"pw"))
    store.connect(BOB)
    heard = []
    store.event_manager.connect(StoreModificationEvent, heard.append)
    store.set("a", (stream(), {}))
    assert inner.exists(".user_planted")
    assert [(type(event), event.source, event.key) for event in heard] == [
        (StoreSetEvent, store, "a")
    ]


def test_progress_of_what_is_refused_is_not_told(picky):
    heard = []
    picky.event_manager.connect(StoreEvent, heard.append)
    picky.given = set()
    for key in (".user_bob", "secret"):
        for call, _ in OF_A_KEY.values():
            assert isinstance(raised(call, picky, key, io.BytesIO()), HiddenKeyError)
    assert [event for event in heard if not isinstance(event, StoreTransactionEvent)] == []


def test_to_write_does_not_need_to_read(picky, inner):
    heard = []
    picky.event_manager.connect(StoreEvent, heard.append)
    for given in ({"set"}, {"set", "exists"}):
        picky.given = given
        picky.set_data("secret", io.BytesIO(b"written"))
        picky.from_bytes("secret", b"written")
        picky.multiset_data(["secret"], [io.BytesIO(b"written")])
        picky.set_metadata("secret", {"n": 1})
        assert contents(inner)["secret"] == (b"written", {"n": 1})
    assert heard


def test_reading_a_token_is_not_told_as_progress(store, inner):
    heard = []
    inner.event_manager.connect(StoreEvent, heard.append)
    store.exists("secret")
    store.get("secret")
    assert heard == []


def test_both_ways_of_set_do_the_same(inner):
    heard = []
    store = SimpleAuthStore(inner, quick_encoder, event_manager=EventManager())
    store.add_user("bob", "pw")
    store.connect(BOB)
    for _ in range(3):
        store.set("a", (io.BytesIO(b"1"), {"n": 1}))
    with store.transaction("note"):
        store.set("a", (io.BytesIO(b"1"), {"n": 1}))
        listener = store.event_manager.connect(StoreModificationEvent, heard.append)
    assert [(type(each), each.key) for each in heard] == [(StoreUpdateEvent, "a")]
    listener.disconnect()
    heard.clear()
    outer = WrapperStore(store, event_manager=EventManager())
    outer.event_manager.connect(StoreModificationEvent, heard.append)
    outer.set("a", (io.BytesIO(b"2"), {"n": 2}))
    assert [(type(each), each.key) for each in heard] == [(StoreUpdateEvent, "a")]
    store.event_manager.connect(StoreModificationEvent, heard.append)
    store.set("a", (io.BytesIO(b"3"), {"n": 3}))
    with store.transaction("note"):
        store.set("a", (io.BytesIO(b"4"), {"n": 4}))
    assert [each.metadata for each in heard[1:]] == [{"n": 3}, {"n": 4}]
    for bad in ((), (io.BytesIO(),), (io.BytesIO(), {}, 1)):
        with pytest.raises(TypeError):
            store.set("a", bad)
    read_only = SimpleAuthStore(ReadOnlyStore(inner), quick_encoder)
    read_only.connect(BOB)
    with pytest.raises(StoreError, match="can only be read"):
        read_only.set("a", (io.BytesIO(), {}))


def prefixed(store):
    return PrefixStore(store, ".us", event_manager=EventManager())


def spare():
    return DictMemoryStore(event_manager=EventManager())


@pytest.mark.parametrize(
    ("around", "key"),
    [
        (lambda users: JoinedStore([prefixed(users), spare()]), "er_bob"),
        (lambda users: JoinedStore([spare(), prefixed(users)]), "er_bob"),
        (lambda users: PrefixStore(JoinedStore([prefixed(users), spare()]), "er"), "_bob"),
        (lambda users: MountedStore("m/", prefixed(users), spare()), "m/er_bob"),
        (lambda users: MountedStore("m/", spare(), prefixed(users)), "er_bob"),
        (lambda users: CachingStore(spare(), prefixed(users)), "er_bob"),
    ],
)
def test_tokens_cannot_be_reached_by_another_name_through_several_stores(around, key):
    users = spare()
    store = SimpleAuthStore(around(users), quick_encoder, user_key_store=users)
    store.add_user("bob", "pw")
    token = users.to_bytes(".user_bob")
    store.connect(BOB)
    for call in (
        lambda: store.get(key),
        lambda: store.from_bytes(key, b"planted"),
        lambda: store.delete(key),
        lambda: store.copy(key, "m/copy"),
        lambda: store.move(key, "m/copy"),
    ):
        with pytest.raises(HiddenKeyError):
            call()
    assert not store.exists(key)
    assert list(store.keys()) == list(store.query_keys()) == list(store.glob("*")) == []
    assert users.to_bytes(".user_bob") == token
    # What only looks like one, by that name, is none.
    store.from_bytes("m/other", b"1")
    assert list(store.keys()) == ["m/other"]


def test_a_store_of_several_that_shows_the_users_under_two_names():
    base = spare()
    store = JoinedStore([prefixed(base), base])
    store = SimpleAuthStore(store, quick_encoder)
    store.add_user("bob", "pw")
    store.connect(BOB)
    assert list(base.keys()) == [".us.user_bob"]
    for key in (".user_bob", ".us.user_bob"):
        with pytest.raises(HiddenKeyError):
            store.get(key)
    store.from_bytes("a", b"1")
    assert list(store.keys()) == [".usa", "a"]
    assert list(store.keys(limit=1)) == [".usa"]


@pytest.mark.parametrize("method", ["add_user", "change_password"])
@pytest.mark.parametrize("password", ["", b""])
def test_a_password_is_not_empty(store, method, password):
    name = "new" if method == "add_user" else "bob"
    with pytest.raises(ValueError, match="a password is not empty"):
        getattr(store, method)(name, password)
    assert not store.store.exists(".user_new")
    assert store.is_connected()


def test_users_are_listed(inner):
    store = SimpleAuthStore(inner, quick_encoder, event_manager=EventManager())
    assert store.users() == []
    for name in ("eve", "Bob", "a/b", "\u00e9"):
        store.add_user(name, "pw")
    # No token: nobody can log in.
    inner.from_bytes(".user_empty", b"")
    inner.from_bytes(".user_", b"x")
    assert store.users() == ["Bob", "a/b", "eve", "\u00e9"]
    store.remove_user("eve")
    assert store.users() == ["Bob", "a/b", "\u00e9"]


def test_users_of_a_store_of_their_own_are_listed(inner):
    users = DictMemoryStore(event_manager=EventManager())
    store = SimpleAuthStore(inner, quick_encoder, "", users, event_manager=EventManager())
    store.add_user("bob", "pw")
    assert store.users() == ["bob"]


@pytest.mark.parametrize("key", ["secret", "nowhere"])
def test_what_is_merely_set_tells_nothing(picky, key):
    picky.given = {"set", "delete"}
    for call in (
        lambda: picky.delete(key),
        lambda: picky.update_metadata(key, {}),
        lambda: picky.multiupdate_metadata([key], [{}]),
        lambda: picky.set(key, (io.BytesIO(), {}), if_none_match="*"),
        lambda: picky.set_data(key, io.BytesIO(), if_match="x"),
    ):
        with pytest.raises(HiddenKeyError) as raised:
            call()
        assert raised.value.args == HiddenKeyError(key).args
    assert picky.set(key, (io.BytesIO(), {})) is None
    assert picky.set_metadata(key, {}) is None
