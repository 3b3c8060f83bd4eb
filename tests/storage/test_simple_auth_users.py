"""SimpleAuthStore: users, their tokens, and when a login begins and ends."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import pickle
import signal
import threading
import warnings

import pytest
from logged_in import BOB, contents, quick_encoder, raised, stream

from encore.events.event_manager import EventManager
from encore.storage import _passwords
from encore.storage._passwords import is_token, make_token, verify
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.storage.events import (
    StoreModificationEvent,
    StoreTransactionEndEvent,
)
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.simple_auth_store import (
    AuthenticationError,
    HiddenKeyError,
    SimpleAuthStore,
    make_encoder,
    sha1_hasher,
)
from encore.storage.sqlite_store import SqliteStore
from encore.storage.wrapper_store import WrapperStore


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


DEFAULT = _passwords._N


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch):
    monkeypatch.setattr(_passwords, "_N", 2**4)


# Users


NAMES = [
    "a",
    "../x",
    "/etc/passwd",
    "é",
    "\0",
    "a\nb",
    "*",
    "[a]",
    ".user_",
    ".user_bob",
    "%2e",
    " ",
    "$",
    "😀",
    "x" * 1018,
]


@pytest.mark.parametrize("name", NAMES)
def test_user_names_may_be_anything_and_address_no_other_key(name, inner, tmp_path):
    before = contents(inner)
    init_shared_store(tmp_path)
    with FileSystemStore(tmp_path, durability="process") as files:
        for place in (inner, files):
            store = SimpleAuthStore(place, quick_encoder)
            store.add_user(name, "pw")
            assert list(place.keys(".user_")) == [f".user_{name}"]
            with pytest.raises(ValueError, match="already"):
                store.add_user(name, "other")
            store.connect({"username": name, "password": "pw"})
            assert store.username == name
            store.change_password(name, b"\xff\0")
            assert not store.is_connected()
            store.connect({"username": name, "password": b"\xff\0"})
            store.remove_user(name)
            assert not store.is_connected()
            for call, more in ((store.remove_user, ()), (store.change_password, ("pw",))):
                with pytest.raises(KeyError) as caught:
                    call(name, *more)
                assert caught.value.args == (name,)
                assert caught.value.__cause__ is None
    assert contents(inner) == before


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", ValueError),
        (None, TypeError),
        (5, TypeError),
        (b"bob", TypeError),
        ("\ud800", ValueError),
        ("x" * 1019, ValueError),
    ],
)
def test_what_can_be_no_name_is_no_user(name, error, store, inner):
    before = contents(inner)
    for call in (
        lambda: store.add_user(name, "pw"),
        lambda: store.change_password(name, "pw"),
        lambda: store.remove_user(name),
    ):
        with pytest.raises(error):
            call()
    with pytest.raises(AuthenticationError):
        store.connect({"username": name, "password": "pw"})
    assert contents(inner) == before


@pytest.mark.parametrize(
    ("password", "error"), [(None, TypeError), (5, TypeError), ("\ud800", ValueError)]
)
def test_what_can_be_no_password(password, error, store, inner):
    before = contents(inner)
    for call in (store.add_user, store.change_password):
        with pytest.raises(error) as caught:
            call("bob", password)
        assert password is None or repr(password) not in str(caught.value)
    assert contents(inner) == before


def test_a_str_like_no_other_is_taken_as_it_is(store, inner):
    class Name(str):
        def __radd__(self, other):
            return "secret"

        def __str__(self):
            return "secret"

    store.add_user(Name("joe"), "pw")
    assert inner.exists(".user_joe")
    with pytest.raises(AuthenticationError):
        store.connect({"username": Name("secret"), "password": "pw"})
    assert inner.to_bytes("secret") == b"data"


def test_the_key_of_data_is_no_token(store, inner):
    inner.from_bytes("data", quick_encoder(b"guess"))
    inner.from_bytes(".user_", quick_encoder(b"guess"))
    for name in ("data", "", "../data", "/data"):
        with pytest.raises(AuthenticationError):
            store.connect({"username": name, "password": "guess"})


def test_administration_needs_no_login(inner):
    store = SimpleAuthStore(SqliteStore(), quick_encoder)
    store.add_user("bob", "pw")
    store.change_password("bob", "pw2")
    assert not store.is_connected()
    assert store.store.is_connected()
    store.connect({"username": "bob", "password": "pw2"})
    store.disconnect()
    assert not store.store.is_connected()
    with pytest.raises(StoreError, match="can only be read"):
        SimpleAuthStore(ReadOnlyStore(inner), quick_encoder).add_user("bob", "pw")


def test_users_are_not_changed_inside_a_transaction(store, inner):
    before = contents(inner)
    for call in (
        lambda: store.add_user("new", "pw"),
        lambda: store.change_password("bob", "other"),
        lambda: store.remove_user("eve"),
        lambda: store.connect(BOB),
        store.disconnect,
    ):
        with store.transaction("note"), pytest.raises(StoreError, match="transaction"):
            call()
    assert contents(inner) == before
    assert store.is_connected()


def test_one_of_two_adds_a_user(inner):
    taken = []

    class Late(WrapperStore):
        def info(self):
            info = super().info()
            if not taken:
                taken.append(inner.from_bytes(".user_bob", b"token"))
            return info

    store = SimpleAuthStore(Late(inner), quick_encoder)
    with pytest.raises(ValueError, match="already"):
        store.add_user("bob", "pw")
    assert inner.to_bytes(".user_bob") == b"token"


def test_a_user_that_is_removed_meanwhile_is_not_brought_back(inner):
    class Late(WrapperStore):
        def get(self, key):
            value = super().get(key)
            inner.delete(key)
            return value

    SimpleAuthStore(inner, quick_encoder).add_user("bob", "pw")
    with pytest.raises(KeyError):
        SimpleAuthStore(Late(inner), quick_encoder).change_password("bob", "other")
    assert not inner.exists(".user_bob")


def test_users_in_a_store_without_conditions(inner):
    class Plain(WrapperStore):
        def info(self):
            return {**super().info(), "conditional": False}

    store = SimpleAuthStore(Plain(inner), make_encoder(b"salt"))
    store.add_user("bob", "pw")
    with pytest.raises(ValueError, match="already"):
        store.add_user("bob", "pw")
    store.change_password("bob", "pw2")
    inner.from_bytes(".user_old", make_encoder(b"salt")(b"pw"))
    store.connect({"username": "old", "password": "pw"})
    assert inner.to_bytes(".user_old").startswith(b"scrypt$")
    store.to_bytes("secret")
    with pytest.raises(KeyError):
        store.change_password("nobody", "pw")


# Logging in


@pytest.mark.parametrize(
    "credentials",
    [
        None,
        {},
        {"username": "bob"},
        {"password": "pw"},
        {"username": "bob", "password": None},
        {"username": "bob", "password": 5},
        {"username": "bob", "password": ["pw"]},
        {"username": "bob", "password": bytearray(b"pw")},
        {"username": "bob", "password": "\ud800"},
        {"username": None, "password": "pw"},
        {"username": 5, "password": "pw"},
        {"username": b"bob", "password": "pw"},
        {"username": ["bob"], "password": "pw"},
        {"username": "", "password": "pw"},
        {"username": "\ud800", "password": "pw"},
        {"username": "x" * 5000, "password": "pw"},
        {"username": "bob\0", "password": "pw"},
        {"username": "bob", "password": ""},
        {"username": "bob", "password": "wrong"},
        {"username": "bob", "password": "PW"},
        {"username": "bob", "password": "pw "},
        {"username": "BOB", "password": "pw"},
        {"username": "nobody", "password": "pw"},
        ("bob", "pw"),
        ["bob", "pw"],
        "bob:pw",
        b"bob",
        5,
        object(),
        True,
        {"bob": "pw"},
        {1: 2},
    ],
)
def test_wrong_credentials_are_an_authentication_error(credentials, inner):
    store = SimpleAuthStore(inner, quick_encoder)
    store.add_user("bob", "pw")
    store.disconnect()
    with pytest.raises(AuthenticationError) as caught:
        store.connect(credentials)
    assert "not connected" in str(caught.value)
    assert caught.value.__context__ is None
    assert not store.is_connected()
    assert not inner.is_connected()
    assert type(raised(store.exists, "secret")) is AuthenticationError


def test_hostile_credentials_are_an_authentication_error(store):
    class Hostile(dict):
        def __getitem__(self, name):
            raise RuntimeError("pw")

    class Moody(dict):
        def __getitem__(self, name):
            return {"username": "bob", "password": "pw"}[name]

    with pytest.raises(AuthenticationError) as caught:
        store.connect(Hostile(BOB))
    assert caught.value.__context__ is None
    store.connect(Moody())


def test_unknown_users_and_wrong_passwords_look_alike(inner):
    for encoder in (None, quick_encoder):
        store = SimpleAuthStore(inner, encoder, user_key_store=DictMemoryStore())
        store.add_user("bob", "pw")
        errors = []
        for name, password in (("bob", "wrong"), ("nobody", "pw"), ("x" * 2000, "pw"), ("", "pw")):
            with pytest.raises(AuthenticationError) as caught:
                store.connect({"username": name, "password": password})
            errors.append(caught.value)
        assert len({(type(each), each.args, each.key, each.__context__) for each in errors}) == 1


@pytest.mark.parametrize("upgrade", [None, True, False])
@pytest.mark.parametrize("encoder", [None, quick_encoder, make_encoder(b"salt")])
def test_every_failure_hashes_as_much(inner, encoder, upgrade, monkeypatch):
    store = SimpleAuthStore(inner, encoder, upgrade=upgrade)
    store.add_user("bob", "pw")
    if encoder is not None:
        inner.from_bytes(".user_old", encoder(b"pw"))
    hashed = []
    scrypt = hashlib.scrypt
    monkeypatch.setattr(
        hashlib, "scrypt", lambda *args, **kw: hashed.append(kw["n"]) or scrypt(*args, **kw)
    )
    counts = set()
    for name in ("bob", "nobody", "x" * 2000, *(["old"] if encoder else [])):
        hashed.clear()
        with pytest.raises(AuthenticationError):
            store.connect({"username": name, "password": "wrong"})
        counts.add(tuple(hashed))
    slow = encoder is None or upgrade or (upgrade is None and encoder is not quick_encoder)
    assert counts == {(2**4,) if slow else ()}


def test_tokens_of_0_8_log_in(inner):
    # What EnCore 0.8 makes of the salt b'salt' and the password 'pw'.
    token = b"w#l\x9d\xe1*:e\x8e\xb6>(H\xfb3\xb35M_\x1a"
    assert make_encoder(b"salt")(b"pw") == make_encoder(b"salt", sha1_hasher)("pw") == token
    assert sha1_hasher(b"saltpw") == token
    inner.from_bytes(".user_bob", token)
    store = SimpleAuthStore(inner, make_encoder(b"salt"), ".user_", inner, upgrade=False)
    for password in ("pw", b"pw"):
        store.connect({"username": "bob", "password": password})
        assert store.to_bytes("secret") == b"data"
        store.disconnect()
    assert inner.to_bytes(".user_bob") == token


def test_passwords_are_text_or_bytes(inner):
    store = SimpleAuthStore(inner, quick_encoder)
    inner.from_bytes(".user_bob", quick_encoder("pässwörd".encode()))
    store.connect({"username": "bob", "password": "pässwörd"})
    store.connect({"username": "bob", "password": "pässwörd".encode(), "more": 1})
    with pytest.raises(AuthenticationError):
        store.connect({"username": "bob", "password": "pässwörd".encode("latin-1")})
    assert store.username == "bob"


def test_connecting_twice_and_changing_places(store):
    store.connect()
    assert store.username == "bob"
    store.connect({"username": "eve", "password": "pw"})
    assert store.username == "eve"
    with pytest.raises(AuthenticationError):
        store.connect({"username": "bob", "password": "wrong"})
    assert store.username == "eve"
    store.remove_user("bob")
    assert store.to_bytes("secret") == b"data"
    store.disconnect()
    store.disconnect()
    with pytest.raises(AuthenticationError):
        store.connect()
    store.connect({"username": "eve", "password": "pw"})


def test_it_disconnects_what_it_connected():
    data, users = SqliteStore(), SqliteStore()
    store = SimpleAuthStore(data, quick_encoder, "", users)
    with users:
        store.add_user("bob", "pw")
        with pytest.raises(AuthenticationError):
            store.connect({"username": "bob", "password": "wrong"})
        assert not data.is_connected()
        store.connect(BOB)
        assert data.is_connected()
        store.from_bytes("a", b"")
        store.disconnect()
        assert not data.is_connected()
        assert users.is_connected()
        with data:
            store.connect(BOB)
            store.disconnect()
            assert data.is_connected()


def test_credentials_are_not_passed_on(inner):
    given = []

    class Noting(WrapperStore):
        def is_connected(self):
            return False

        def connect(self, credentials=None):
            given.append(credentials)

    store = SimpleAuthStore(Noting(inner), quick_encoder)
    store.add_user("bob", "pw")
    store.connect(BOB)
    assert set(given) == {None}


def test_a_failing_login_does_not_close_the_store_under_others():
    inner = SqliteStore()
    store = SimpleAuthStore(inner, None)
    started, go = threading.Event(), threading.Event()

    def encoder(password):
        if password == b"slow":
            started.set()
            assert go.wait(20)
        return quick_encoder(password)

    store.encoder = encoder
    users = DictMemoryStore()
    users.from_bytes("bob", quick_encoder(b"pw"))
    store = SimpleAuthStore(inner, encoder, "", users)
    failed = []
    slow = threading.Thread(
        target=lambda: failed.append(raised(store.connect, {"username": "bob", "password": "slow"}))
    )
    slow.start()
    assert started.wait(20)
    store.connect(BOB)
    go.set()
    slow.join(20)
    assert isinstance(failed[0], AuthenticationError)
    store.from_bytes("a", b"data")
    assert store.to_bytes("a") == b"data"
    store.disconnect()
    assert not inner.is_connected()


def test_info_before_login_tells_what_it_must(tmp_path):
    store = SimpleAuthStore(SqliteStore(tmp_path / "secret.db"), quick_encoder)
    assert "secret.db" not in str(store.info())
    assert store.info() == {
        "type": "SimpleAuthStore",
        "readonly": False,
        "authorizing": False,
        "transactional": True,
        "conditional": True,
        "streaming": True,
        "durable": "power",
    }
    store.add_user("bob", "pw")
    with_login = SimpleAuthStore(store.store, quick_encoder)
    with_login.connect(BOB)
    assert "secret.db" in str(with_login.info())
    store.disconnect()


# The end of a login


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("end", ["remove", "change", "replace", "empty", "huge", "rename"])
def test_a_login_ends_with_its_token(end, own, inner):
    users = DictMemoryStore() if own else inner
    store = SimpleAuthStore(inner, quick_encoder, "u", users)
    other = SimpleAuthStore(inner, quick_encoder, "u", users)
    store.add_user("bob", "pw")
    store.connect(BOB)
    value, part = store.get("secret"), store.get_data("secret")
    assert part.read(1) == b"d"
    token = users.to_bytes("ubob")
    if end == "remove":
        other.remove_user("bob")
    elif end == "change":
        other.change_password("bob", "pw2")
    elif end == "rename":
        users.move("ubob", "ueve")
    else:
        users.from_bytes(
            "ubob", {"replace": b"x" * len(token), "empty": b""}.get(end, token * 9999)
        )
    assert type(raised(store.from_bytes, "secret", b"changed")) is AuthenticationError
    assert not store.is_connected()
    # What was got can still be read.
    assert part.read() == b"ata"
    assert value.data.read() == b"data"
    # For good, even if the token comes back.
    users.from_bytes("ubob", token)
    with pytest.raises(AuthenticationError):
        store.get("secret")
    with pytest.raises(AuthenticationError):
        store.connect()
    store.connect(BOB)
    assert store.to_bytes("secret") == b"data"


def test_the_token_is_compared_and_not_hashed_again(inner, monkeypatch):
    encoded = []
    store = SimpleAuthStore(inner, lambda password: encoded.append(password) or b"token")
    store.add_user("bob", "pw")
    store.connect(BOB)
    encoded.clear()
    monkeypatch.delattr(hashlib, "scrypt")
    store.get("secret")
    store.from_bytes("a", b"")
    list(store.keys())
    assert encoded == []


def test_metadata_of_a_token_do_not_matter(store, inner):
    inner.set_metadata(".user_bob", {"name": "Bob"})
    assert store.to_bytes("secret") == b"data"


def test_a_listing_ends_soon_after_the_login(store, inner):
    for number in range(1000):
        inner.from_bytes(f"key{number:03}", b"")
    for begin in (
        store.query,
        store.query_keys,
        lambda: store.glob("*"),
        store.keys,
        lambda: store.keys(limit=900),
    ):
        store.connect(BOB)
        walk = begin()
        next(walk)
        store.remove_user("bob")
        found = []
        error = raised(found.extend, walk)
        assert isinstance(error, AuthenticationError)
        assert len(found) <= 100
        store.add_user("bob", "pw")
    store.connect(BOB)
    for end in (store.disconnect, lambda: store.connect({"username": "eve", "password": "pw"})):
        store.connect(BOB)
        walk = store.keys()
        next(walk)
        end()
        assert isinstance(raised(next, walk), AuthenticationError)


def test_bulk_reading_and_writing_end_with_the_login(store, inner):
    walk = store.multiget(["secret", "free"])
    next(walk)
    before = contents(inner)

    def keys():
        yield "a"
        store.user_key_store.delete(".user_bob")
        yield "b"

    with pytest.raises(AuthenticationError):
        store.multiset(keys(), [(stream(), {}), (stream(), {})])
    assert contents(inner) == before
    store.connect(BOB)

    def last_key():
        yield "a"
        store.user_key_store.delete(".user_bob")

    with pytest.raises(AuthenticationError):
        store.multiset_data(last_key(), [stream(), stream()])
    assert contents(inner) == before
    assert isinstance(raised(next, walk), AuthenticationError)


@pytest.mark.parametrize("end", ["remove", "disconnect", "another user", "same user"])
def test_a_transaction_ends_with_the_login(end, inner):
    users = DictMemoryStore()
    manager = EventManager()
    store = SimpleAuthStore(inner, quick_encoder, "", users, event_manager=manager)
    store.add_user("bob", "pw")
    store.add_user("eve", "pw")
    store.connect(BOB)
    heard = []
    manager.connect(StoreModificationEvent, heard.append)
    manager.connect(StoreTransactionEndEvent, heard.append)
    before = contents(inner)

    def finish():
        if end == "remove":
            users.delete("bob")
        elif end == "disconnect":
            store.disconnect()
        else:
            store.connect({"username": "eve" if end == "another user" else "bob", "password": "pw"})

    def change():
        with store.transaction("note"):
            store.from_bytes("a", b"")
            thread = threading.Thread(target=finish)
            thread.start()
            thread.join(20)

    assert isinstance(raised(change), AuthenticationError)
    assert contents(inner) == before
    assert [event.state for event in heard] == ["failed"]
    # It is over: others may write.
    inner.from_bytes("b", b"")
    store.disconnect()
    store.connect({"username": "eve", "password": "pw"})
    with store.transaction("note"), store.transaction("inner"):
        store.from_bytes("c", b"")
    assert inner.exists("c")


def test_what_is_written_after_the_end_is_refused_in_a_transaction(inner):
    users = DictMemoryStore()
    store = SimpleAuthStore(inner, quick_encoder, "", users)
    store.add_user("bob", "pw")
    store.connect(BOB)
    context = store.transaction("note")
    with context:
        store.from_bytes("a", b"")
    users.delete("bob")
    with pytest.raises(AuthenticationError), context:
        raise AssertionError("entered")


def test_a_store_that_cannot_be_asked_permits_nothing(inner):
    users = SqliteStore()
    store = SimpleAuthStore(inner, quick_encoder, "", users)
    store.add_user("bob", "pw")
    store.connect(BOB)
    users.disconnect()
    assert isinstance(raised(store.get, "secret"), StoreError)
    assert isinstance(raised(store.from_bytes, "secret", b""), StoreError)
    assert store.is_connected() is False
    assert inner.to_bytes("secret") == b"data"


# Places


def test_pickling_and_copying_drop_the_login(store):
    for other in (pickle.loads(pickle.dumps(store)), copy.copy(store)):
        assert other.is_connected() is False
        assert other.username is None
        assert type(raised(other.get, "secret")) is AuthenticationError
        assert isinstance(raised(other.get, ".user_bob"), AuthenticationError)
        other.connect(BOB)
        assert other.to_bytes("secret") == b"data"
        assert isinstance(raised(other.get, ".user_bob"), HiddenKeyError)
    assert store.username == "bob"


def test_the_salt_is_not_pickled(inner):
    users = DictMemoryStore()
    store = SimpleAuthStore(inner, make_encoder(b"very secret salt"), "", users)
    store.add_user("bob", "pw")
    users.from_bytes("old", store.encoder(b"pw"))
    store.connect(BOB)
    pickled = pickle.dumps(store)
    assert b"very secret" not in pickled
    other = pickle.loads(pickled)
    other.connect(BOB)
    with pytest.raises(StoreError, match="salt"):
        other.connect({"username": "old", "password": "pw"})
    other.encoder = make_encoder(b"very secret salt")
    other.connect({"username": "old", "password": "pw"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_keeps_the_login(store):
    with warnings.catch_warnings():
        # Other threads of the test run.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            assert store.to_bytes("secret") == b"data"
            store.from_bytes("a", b"")
            store.disconnect()
            assert type(raised(store.get, "secret")) is AuthenticationError
            store.connect(BOB)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert store.to_bytes("secret") == b"data"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork_while_another_thread_logs_in(inner):
    started, go = threading.Event(), threading.Event()

    class Slow(WrapperStore):
        def connect(self, credentials=None):
            started.set()
            assert go.wait(20)
            super().connect(credentials)

    inner.from_bytes(".user_bob", quick_encoder(b"pw"))
    store = SimpleAuthStore(Slow(inner), quick_encoder)
    thread = threading.Thread(target=store.connect, args=(BOB,))
    thread.start()
    assert started.wait(20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            go.set()
            signal.alarm(20)
            store.connect(BOB)
            status = 0
        finally:
            os._exit(status)
    go.set()
    thread.join(20)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_secret_is_shown(inner):
    store = SimpleAuthStore(inner, make_encoder(b"very secret salt"))
    store.add_user("bob", "the password")
    token = inner.to_bytes(".user_bob")
    store.connect({"username": "bob", "password": "the password"})
    shown = [repr(store), str(vars(store)), repr(store.encoder), repr(store.info())]
    shown.append(str(raised(store.get, "nowhere")))
    shown.append(str(raised(store.connect, {"username": "bob", "password": "the passwort"})))
    shown.append(str(raised(store.connect, {"username": "bob", "passwort": "the passwort"})))
    store.remove_user("bob")
    shown.append(str(raised(store.get, "nowhere")))
    for text in shown:
        for secret in ("the passwor", "very secret", token.decode(), token.decode()[-64:]):
            assert secret not in text
    assert "SimpleAuthStore" in shown[0]


def test_what_a_wrapper_around_it_does(store):
    outer = PrefixStore(store, "p/", event_manager=EventManager())
    outer.disconnect()
    store.disconnect()
    with pytest.raises(AuthenticationError):
        outer.connect()
    outer.connect(BOB)
    outer.from_bytes("a", b"data")
    assert store.to_bytes("p/a") == b"data"
    outer.disconnect()
    assert not store.is_connected()


# Tokens


def test_the_default_is_scrypt_with_a_salt_of_its_own(inner, monkeypatch):
    monkeypatch.setattr(_passwords, "_N", DEFAULT)
    store = SimpleAuthStore(inner)
    assert store.encoder is None
    store.add_user("bob", "pw")
    store.add_user("eve", "pw")
    tokens = [inner.to_bytes(f".user_{name}") for name in ("bob", "eve")]
    assert tokens[0] != tokens[1]
    for token in tokens:
        scheme, n, r, p, salt, hashed = token.decode().split("$")
        assert (scheme, n, r, p) == ("scrypt", "16384", "8", "1")
        assert len(bytes.fromhex(salt)) == 16
        expected = hashlib.scrypt(b"pw", salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=32)
        assert expected.hex() == hashed
    store.connect(BOB)
    with pytest.raises(AuthenticationError):
        store.connect({"username": "eve", "password": "pw2"})
    inner.from_bytes(".user_plain", b"pw")
    with pytest.raises(AuthenticationError):
        store.connect({"username": "plain", "password": "pw"})


def test_an_old_token_is_upgraded(inner):
    encoder = make_encoder(b"salt")
    inner.set(".user_bob", (io.BytesIO(encoder(b"pw")), {"name": "Bob"}))
    store = SimpleAuthStore(inner, encoder)
    with pytest.raises(AuthenticationError):
        store.connect({"username": "bob", "password": "wrong"})
    assert inner.to_bytes(".user_bob") == encoder(b"pw")
    store.connect(BOB)
    token = inner.to_bytes(".user_bob")
    assert token.startswith(b"scrypt$16$8$1$")
    assert inner.get_metadata(".user_bob") == {"name": "Bob"}
    assert store.to_bytes("secret") == b"data"
    # Now it needs no encoder, and is not changed again.
    other = SimpleAuthStore(inner)
    other.connect(BOB)
    store.connect(BOB)
    assert inner.to_bytes(".user_bob") == token
    # The old token, whoever has it, is worth nothing.
    with pytest.raises(AuthenticationError):
        store.connect({"username": "bob", "password": encoder(b"pw")})


@pytest.mark.parametrize(
    ("encoder", "upgrade", "expected"),
    [
        (None, None, True),
        (make_encoder(b"salt"), None, True),
        (make_encoder(b"salt", sha1_hasher), None, True),
        (make_encoder(b"salt"), False, False),
        (make_encoder(b"salt", quick_encoder), None, False),
        (quick_encoder, None, False),
        (quick_encoder, True, True),
    ],
)
def test_when_tokens_are_made_by_scrypt(inner, encoder, upgrade, expected):
    store = SimpleAuthStore(inner, encoder, upgrade=upgrade)
    store.add_user("bob", "pw")
    assert inner.to_bytes(".user_bob").startswith(b"scrypt$") == expected
    store.connect(BOB)
    if encoder is not None:
        inner.from_bytes(".user_bob", encoder(b"pw"))
        assert store.is_connected() is not expected
        store.connect(BOB)
        assert inner.to_bytes(".user_bob").startswith(b"scrypt$") == expected
        assert (inner.to_bytes(".user_bob") == encoder(b"pw")) is not expected


def test_an_upgrade_that_fails_can_wait(inner):
    encoder = make_encoder(b"salt")
    inner.from_bytes(".user_bob", encoder(b"pw"))
    for users in (ReadOnlyStore(inner), Refusing(inner)):
        store = SimpleAuthStore(inner, encoder, user_key_store=users)
        store.connect(BOB)
        assert store.to_bytes("secret") == b"data"
        assert inner.to_bytes(".user_bob") == encoder(b"pw")


class Refusing(WrapperStore):
    def set_data(self, key, data, buffer_size=1048576, **conditions):
        raise StoreError("it is full")


@pytest.mark.parametrize("when", ["before it looks", "before it writes"])
@pytest.mark.parametrize("other", ["upgraded too", "changed", "removed"])
def test_an_upgrade_does_not_overwrite_another_change(inner, other, when):
    encoder = make_encoder(b"salt")
    inner.from_bytes(".user_bob", encoder(b"pw"))

    class Late(WrapperStore):
        def info(self):
            if when == "before it looks":
                self.interfere()
            return super().info()

        def set_data(self, key, data, buffer_size=1048576, **conditions):
            if when == "before it writes":
                self.interfere()
            super().set_data(key, data, buffer_size, **conditions)

        def interfere(self):
            if inner.to_bytes(".user_bob") != encoder(b"pw"):
                return
            if other == "upgraded too":
                SimpleAuthStore(inner, encoder).connect(BOB)
            elif other == "changed":
                SimpleAuthStore(inner, encoder).change_password("bob", "pw2")
            else:
                SimpleAuthStore(inner, encoder).remove_user("bob")

    store = SimpleAuthStore(Late(inner), encoder)
    if other == "upgraded too":
        store.connect(BOB)
        assert store.to_bytes("secret") == b"data"
        return
    with pytest.raises(AuthenticationError):
        store.connect(BOB)
    assert inner.exists(".user_bob") == (other == "changed")
    if other == "changed":
        store.connect({"username": "bob", "password": "pw2"})


HEX = "00" * 16
GOOD = f"scrypt$2$1$1${HEX}${HEX}"


@pytest.mark.parametrize(
    "token",
    [
        "",
        "scrypt",
        "scrypt$",
        "scrypt$$$$$",
        f"scrypt$1$1$1${HEX}${HEX}",
        f"scrypt$0$1$1${HEX}${HEX}",
        f"scrypt$3$1$1${HEX}${HEX}",
        f"scrypt$-2$1$1${HEX}${HEX}",
        f"scrypt$2$0$1${HEX}${HEX}",
        f"scrypt$2$1$0${HEX}${HEX}",
        f"scrypt$2$1$-1${HEX}${HEX}",
        f"scrypt$2097152$1$1${HEX}${HEX}",
        f"scrypt$16384$8$9${HEX}${HEX}",
        # More than there can be with so small an r.
        f"scrypt$65536$1$1${HEX}${HEX}",
        f"scrypt$1048576$1$1${HEX}${HEX}",
        f"scrypt$2$99999999$1${HEX}${HEX}",
        f"scrypt$2$1$99999999${HEX}${HEX}",
        f"scrypt$99999999999999999999$1$1${HEX}${HEX}",
        f"scrypt$2$1$1$${HEX}",
        f"scrypt$2$1$1${HEX}$",
        f"scrypt$2$1$1${HEX}$00",
        f"scrypt$2$1$1$xyz${HEX}",
        f"scrypt$2$1$1${HEX}${HEX}$",
        f"scrypt$2$1$1${'00' * 65}${HEX}",
        f"scrypt$2$1$1${HEX}${'00' * 65}",
        f"scrypt$2$1$1${HEX}${'00' * 100_000}",
        f"scrypt${'1' * 5000}$1$1${HEX}${HEX}",
        f"scrypt$\u0662$1$1${HEX}${HEX}",
        f"SCRYPT$2$1$1${HEX}${HEX}",
        "\ud800",
    ],
)
def test_a_planted_token_costs_no_more_than_allowed(token, inner, monkeypatch):
    token = token.encode(errors="surrogatepass")
    assert is_token(GOOD.encode())
    assert not is_token(token)
    assert verify(token, b"pw") is False
    inner.from_bytes(".user_bob", token)
    asked = []
    scrypt = hashlib.scrypt
    monkeypatch.setattr(
        hashlib, "scrypt", lambda *a, **kw: asked.append(kw["n"] * kw["r"]) or scrypt(*a, **kw)
    )
    for encoder in (None, quick_encoder):
        with pytest.raises(AuthenticationError):
            SimpleAuthStore(inner, encoder).connect(BOB)
    assert set(asked) <= {2**4 * 8}


def test_other_parameters_are_recognised():
    for n, r, p in ((2, 1, 1), (2**15, 8, 1), (2**8, 32, 4)):
        hashed = hashlib.scrypt(b"pw", salt=b"salt", n=n, r=r, p=p, maxmem=2**28, dklen=20)
        token = f"scrypt${n}${r}${p}${b'salt'.hex()}${hashed.hex()}".encode()
        assert verify(token, b"pw") is True
        assert verify(token, b"pW") is False


def test_passwords_of_any_length():
    for password in (b"", b"\0", bytes(range(256)), b"x" * 10**6):
        token = make_token(password)
        assert verify(token, password) is True
        assert verify(token, password + b"x") is False


def test_an_encoder_returns_bytes(inner):
    for encoder in (lambda password: password.decode(), lambda password: None):
        store = SimpleAuthStore(inner, encoder)
        with pytest.raises(TypeError, match="encoder returns bytes"):
            store.add_user("bob", "pw")
        assert not inner.exists(".user_bob")
    inner.from_bytes(".user_bob", b"")
    with pytest.raises(AuthenticationError):
        SimpleAuthStore(inner, lambda password: b"").connect(BOB)


def test_encoders():
    for bad in ("salt", None, 5):
        with pytest.raises(TypeError, match="salt is bytes"):
            make_encoder(bad)
    with pytest.raises(TypeError, match="callable"):
        make_encoder(b"salt", "sha1")
    with pytest.raises(TypeError, match="password"):
        make_encoder(b"salt")(5)
    assert repr(make_encoder(b"salt")) == "<encoder with sha1_hasher>"
    assert make_encoder(b"a", lambda data: data + b"!")(b"b") == b"ab!"


def test_tokens_in_a_file_that_is_opened_twice_are_hidden(tmp_path):
    one, other = (SqliteStore(tmp_path / "a.db", event_manager=EventManager()) for _ in range(2))
    store = SimpleAuthStore(
        one,
        user_key_path="x",
        user_key_store=PrefixStore(other, "p/"),
        event_manager=EventManager(),
    )
    store.add_user("bob", "pw")
    store.connect({"username": "bob", "password": "pw"})
    assert other.exists("p/xbob")
    assert not store.exists("p/xbob")
    assert list(store.keys()) == []
    store.disconnect()
