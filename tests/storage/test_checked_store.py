"""CheckedStore: damage is noticed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tempfile
import threading
import unittest
import zipfile

import pytest
from store_kits import DictKit, FileSystemKit, LockingFileSystemKit, SqliteKit, Wrapped

from encore.events.event_manager import EventManager
from encore.storage.abstract_store import AbstractStore
from encore.storage.checked_store import CheckedStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import IntegrityError, PreconditionError, StoreError, StoreOSError
from encore.storage.events import (
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreTransactionEvent,
)
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.maintenance import Finding
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.string_value import StringValue
from encore.storage.value import Value
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import check_store, random_steps, same, transcript

ALGORITHMS = [name for name in sorted(hashlib.algorithms_guaranteed) if "shake" not in name]


class Checked(Wrapped):
    kills = 1

    def wrap(self, store, event_manager=None):
        return CheckedStore(store, event_manager=event_manager)


class TestCheckedStoreOverDictMemoryStore(Checked, DictKit, unittest.TestCase):
    pass


class TestCheckedStoreOverSqliteStore(Checked, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestCheckedStoreOverFileSystemStore(Checked, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestCheckedStoreOverLockingFileSystemStore(Checked, LockingFileSystemKit, unittest.TestCase):
    pass


class Deep(Wrapped):
    """Three wrappers deep, and two of them checked."""

    kills = 1

    def wrap(self, store, event_manager=None):
        prefixed = PrefixStore(store, "p/", event_manager=EventManager())
        inner = CheckedStore(prefixed, "md5", event_manager=EventManager())
        return CheckedStore(inner, event_manager=event_manager)

    def make_handle(self, store):
        inner = super(Wrapped, self).make_handle(store)
        return None if inner is None else self.wrap(inner)

    def failing_commit(self, store):
        return super(Wrapped, self).failing_commit(store.store.store.store)


@pytest.mark.slow
class TestCheckedStoresOverPrefixStoreInMemory(Deep, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestCheckedStoresOverPrefixStoreOverSqliteStore(Deep, SqliteKit, unittest.TestCase):
    pass


def checked_memory(event_manager):
    inner = DictMemoryStore(event_manager=EventManager())
    return CheckedStore(inner, event_manager=event_manager)


@pytest.mark.parametrize("seed", range(3))
def test_it_does_what_the_model_does(seed):
    check_store(checked_memory, seed, 150)


@pytest.mark.parametrize("seed", range(200, 203))
def test_it_does_what_a_plain_store_does(seed):
    steps = random_steps(seed, 150)
    plain = transcript(lambda manager: DictMemoryStore(event_manager=manager), steps)
    assert same(transcript(checked_memory, steps), plain)


@pytest.fixture
def inner():
    return DictMemoryStore(event_manager=EventManager())


@pytest.fixture
def store(inner):
    return CheckedStore(inner, event_manager=EventManager())


def damage(inner, key, data):
    """Other data, without the store's doing."""
    _, metadata, created, modified = inner._store[key]
    inner._store[key] = (data, metadata, created, modified)


DATA = bytes(range(256)) * 1000


# The digest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_digest_is_beside_the_data(inner, algorithm):
    store = CheckedStore(inner, algorithm, event_manager=EventManager())
    store.set("a", (io.BytesIO(b"data"), {"n": 1}))
    digest = hashlib.new(algorithm, b"data").hexdigest()
    assert inner.get_metadata("a") == {"n": 1, f"encore:{algorithm}": digest}
    assert store.get_metadata("a") == {"n": 1}
    assert store.to_bytes("a") == b"data"
    damage(inner, "a", b"date")
    with pytest.raises(IntegrityError, match=f"'a' are damaged: their {algorithm} is"):
        store.to_bytes("a")


@pytest.mark.parametrize("name", ["shake_128", "shake_256", "sha257", "", "SHA256", ":sha256"])
def test_an_algorithm_has_digests_of_one_size(inner, name):
    with pytest.raises(ValueError, match="sha3_512, sha512"):
        CheckedStore(inner, name)


@pytest.mark.parametrize("name", [None, b"md5", hashlib.md5])
def test_an_algorithm_is_a_name(inner, name):
    with pytest.raises(TypeError, match="an algorithm is a str"):
        CheckedStore(inner, name)


WRITES = {
    "set": lambda store: store.set("a", (io.BytesIO(DATA), {"n": 1})),
    "set a value": lambda store: store.set("a", StringValue(DATA, {"n": 1})),
    "set_data": lambda store: store.set_data("a", io.BytesIO(DATA)),
    "from_bytes": lambda store: store.from_bytes("a", DATA),
    "from_file": lambda store: store.from_file("a", io.BytesIO(DATA)),
    "multiset": lambda store: store.multiset(["a"], [(io.BytesIO(DATA), {"n": 1})]),
    "multiset_data": lambda store: store.multiset_data(["a"], [io.BytesIO(DATA)]),
    "mapping": lambda store: store.mapping().update(a=DATA),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("old", [None, {"n": 1}])
def test_whatever_writes_data_keeps_their_digest(inner, store, write, old):
    if old is not None:
        store.set("a", (io.BytesIO(b"old"), old))
    WRITES[write](store)
    assert inner.get_metadata("a")["encore:sha256"] == hashlib.sha256(DATA).hexdigest()
    assert store.to_bytes("a") == DATA
    assert store.verify() == store.check() == []


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.set_metadata("a", {"m": 2}),
        lambda store: store.update_metadata("a", {"m": 2}),
        lambda store: store.multiset_metadata("a", [{"m": 2}]),
        lambda store: store.multiupdate_metadata("a", [{"m": 2}]),
    ],
)
def test_whatever_writes_metadata_keeps_the_digest(inner, store, write):
    store.set("a", (io.BytesIO(DATA), {"n": 1}))
    digest = inner.get_metadata("a")["encore:sha256"]
    write(store)
    assert store.get_metadata("a")["m"] == 2
    assert inner.get_metadata("a")["encore:sha256"] == digest
    damage(inner, "a", DATA[1:])
    write(store)
    # Otherwise damage would be made good.
    assert inner.get_metadata("a")["encore:sha256"] == digest


def test_a_key_made_of_metadata_has_the_digest_of_no_bytes(inner, store):
    store.set_metadata("a", {"n": 1})
    store.set_metadata("b", {"n": 1}, if_none_match="*")
    for key in "ab":
        assert inner.get_metadata(key) == {
            "n": 1,
            "encore:sha256": hashlib.sha256().hexdigest(),
        }
        damage(inner, key, b"x")
        with pytest.raises(IntegrityError):
            store.to_bytes(key)


def test_each_value_is_verified_by_its_own_algorithm(inner, store):
    CheckedStore(inner, "md5").from_bytes("a", b"data")
    store.set_metadata("a", {"n": 1})
    assert set(inner.get_metadata("a")) == {"n", "encore:md5"}
    assert store.to_bytes("a") == b"data"
    damage(inner, "a", b"date")
    with pytest.raises(IntegrityError, match="their md5"):
        store.to_bytes("a")
    store.from_bytes("a", b"new")
    assert set(inner.get_metadata("a")) == {"n", "encore:sha256"}


def test_what_was_written_around_it_is_not_verified(inner, store):
    inner.set("a", (io.BytesIO(b"data"), {"n": 1}))
    assert store.to_bytes("a") == store.get("a").data.read() == b"data"
    store.set_metadata("a", {"n": 2})
    assert inner.get_metadata("a") == {"n": 2}
    assert store.verify() == store.check() == [Finding("a", "there is no digest")]
    store.set("a", store.get("a"))
    assert store.verify() == []


@pytest.mark.parametrize("digest", [None, 5, "", {"a": []}])
def test_a_digest_that_is_none_is_damage(inner, store, digest):
    inner.set("a", (io.BytesIO(b"data"), {"encore:sha256": digest}))
    with pytest.raises(IntegrityError):
        store.to_bytes("a")


# It is not seen

NAMES = [
    "encore:sha256",
    "encore::sha256",
    "encore:::sha256",
    "encore:md5",
    "encore::md5",
    "encore:",
    "encore::",
    "encore:other",
    "encore::other",
    "encore:sha256:",
    "encore",
    "Encore:sha256",
]


def test_names_of_the_callers_that_look_alike_are_kept(inner, store):
    metadata = {name: position for position, name in enumerate(NAMES)}
    double = CheckedStore(store, event_manager=EventManager())
    for each in (store, double):
        for write in (
            lambda each=each: each.set("a", (io.BytesIO(b"data"), metadata)),
            lambda each=each: each.set_metadata("a", metadata),
            lambda each=each: each.update_metadata("a", metadata),
            lambda each=each: each.set_data("a", io.BytesIO(b"data")),
        ):
            write()
            assert each.get_metadata("a") == each.get("a").metadata == metadata
            assert dict(each.query()) == {"a": metadata}
            assert next(each.multiget_metadata("a")) == metadata
            for name, position in metadata.items():
                assert each.get_metadata("a", iter([name])) == {name: position}
                assert dict(each.query([name])) == {"a": {name: position}}
                assert list(each.query_keys(**{name: position})) == ["a"]
                assert list(each.query_keys(where={name: position})) == ["a"]
                assert dict(each.query(where={name: position}, **metadata)) == {"a": metadata}
                assert list(each.query_keys(**{name: -1})) == []
            assert each.to_bytes("a") == b"data"
    damage(inner, "a", b"date")
    for each in (store, double):
        with pytest.raises(IntegrityError):
            each.to_bytes("a")


def test_the_digest_is_seen_nowhere(inner, store):
    told = []
    store.event_manager.connect(StoreModificationEvent, told.append)
    store.set("a", (io.BytesIO(b"data"), {"n": 1}))
    store.set_data("a", io.BytesIO(b"other"))
    store.set_metadata("a", {"n": 1})
    store.update_metadata("a", {})
    with store.transaction():
        store.set_data("a", io.BytesIO(b"third"))
    digest = inner.get_metadata("a")["encore:sha256"]
    for criteria in ({"encore:sha256": digest}, {"encore:sha256": digest, "n": 1}):
        assert list(store.query(**criteria)) == list(store.query_keys(where=criteria)) == []
    assert store.get_metadata("a", ["encore:sha256", "n"]) == {"n": 1}
    assert dict(store.query(["encore:sha256"])) == {"a": {}}
    store.delete("a")
    assert [(event.key, event.metadata, event.source) for event in told] == [
        ("a", {"n": 1}, store)
    ] * 6


def test_bad_criteria_are_refused(store):
    for query in (store.query, store.query_keys):
        for where in ([], "n", 5, {1: 2}):
            with pytest.raises(TypeError):
                query(where=where)
    with pytest.raises(TypeError):
        store.query("encore:sha256")


# Reading


def read_all(stream, *size):
    with stream:
        while stream.read(*size):
            pass


def test_a_full_read_is_verified(inner, store, tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"old")
    for data in (DATA[:-1] + b"x", DATA[:-1], DATA + b"x", b""):
        store.from_bytes("a", DATA)
        damage(inner, "a", data)
        for read in (
            lambda: store.to_bytes("a"),
            lambda: store.to_bytes("a", 100),
            lambda: store.to_file("a", target),
            lambda: store.to_file("a", io.BytesIO()),
            lambda: list(store.get("a").iterdata()),
            lambda: list(store.get("a").iterdata(1000)),
            lambda: read_all(store.get("a").data),
            lambda: store.get_data("a").read(),
            lambda: store.get_data("a").readlines(),
            lambda: read_all(store.get_data("a"), 777),
            lambda: read_all(next(store.multiget("a")).data),
            lambda: next(store.multiget_data("a")).read(),
            lambda: store.mapping()["a"],
            lambda: store.copy("a", "b"),
            lambda: store.move("a", "b"),
            lambda: DictMemoryStore().set("a", store.get("a")),
        ):
            with pytest.raises(IntegrityError) as caught:
                read()
            assert caught.value.key == "a"
            assert target.read_bytes() == b"old"
            assert not store.exists("b")
    assert os.listdir(tmp_path) == ["target"]


def test_the_last_data_are_not_given_out_unverified(inner, store):
    store.from_bytes("a", DATA)
    damage(inner, "a", DATA[:-1] + b"x")
    buffers = store.get("a").iterdata(1000)
    assert b"".join(next(buffers) for _ in range(255)) == DATA[:-1000]
    with pytest.raises(IntegrityError):
        next(buffers)
    stream = store.get_data("a")
    for _ in range(len(DATA) // 65536):
        assert len(stream.read(65536)) == 65536
    with pytest.raises(IntegrityError):
        stream.read(65536)
    # Nor when it is asked again.
    for _ in range(2):
        with pytest.raises(IntegrityError):
            stream.read()


def test_any_thread_may_read(inner, store):
    store.from_bytes("a", DATA)
    good = store.get("a")
    damage(inner, "a", DATA[1:])
    bad = store.get("a")
    found = []

    def read():
        found.append(good.data.read() == DATA)
        try:
            bad.data.read()
        except IntegrityError:
            found.append("noticed")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(map(str, found)) == ["True"] * 4 + ["noticed"] * 4


def test_parts_are_not_verified(inner, store):
    store.from_bytes("a", b"0123456789")
    damage(inner, "a", b"012345678x")
    assert store.get_data_range("a", 0, 10).read() == b"012345678x"
    assert store.get("a").range(-1).read() == b"x"


def archive():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writer:
        writer.writestr("member", DATA)
    return file.getvalue()


def test_a_seekable_stream_stays_seekable(inner, store):
    store.from_bytes("a", archive())
    with zipfile.ZipFile(store.get_data("a")) as reader:
        assert reader.read("member") == DATA
    stream = store.get_data("a")
    assert stream.seekable()
    assert stream.seek(-5, io.SEEK_END) == len(archive()) - 5
    assert stream.read() == archive()[-5:]
    assert stream.seek(0) == 0
    assert stream.read(3) == archive()[:3]
    assert stream.tell() == 3
    assert stream.seek(0) == 0
    assert stream.read() == archive()


def test_wherever_it_has_been_before_a_stream_read_from_its_beginning_is_verified(inner, store):
    store.from_bytes("a", DATA)
    damage(inner, "a", DATA[:100] + b"x" + DATA[101:])
    stream = store.get_data("a")
    stream.seek(-5, io.SEEK_END)
    assert stream.read() == DATA[-5:]
    for _ in range(2):
        stream.seek(0)
        with pytest.raises(IntegrityError):
            list(iter(lambda: stream.read(10_000), b""))
    # Both ends read, and not what is in between.
    stream.seek(0)
    assert stream.read(10) == DATA[:10]
    stream.seek(-10, io.SEEK_END)
    assert stream.read() == DATA[-10:]


def test_what_follows_a_jump_back_is_verified_once(inner, store):
    store.from_bytes("a", DATA)
    stream = store.get_data("a")
    stream.read(150_000)
    stream.seek(70_000)
    assert stream.read() == DATA[70_000:]
    for data in (b"x" + DATA[1:], DATA[:-1] + b"x"):
        damage(inner, "a", data)
        stream = store.get_data("a")
        stream.read(150_000)
        stream.seek(70_000)
        with pytest.raises(IntegrityError):
            stream.read()


# A store in the style of 0.8: streams that have nothing but read(), values without size and etag.


class PlainStream:
    def __init__(self, data):
        self.file = io.BytesIO(data)
        self.read = self.file.read
        self.close = self.file.close

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


class PlainValue(Value):
    def __init__(self, data, metadata):
        self._pair = data, metadata

    data = property(lambda self: PlainStream(self._pair[0]))
    metadata = property(lambda self: dict(self._pair[1]))


class OldStore(AbstractStore):
    def __init__(self):
        super().__init__(event_manager=EventManager())
        self._store = {}

    def get(self, key):
        return PlainValue(*self._store[key][:2])

    def query(self, select=None, **kwargs):
        return iter([(key, dict(record[1])) for key, record in self._store.items()])

    def set(self, key, value, buffer_size=1048576):
        stream, metadata = value
        self._store[key] = (stream.read(), metadata, None, None)

    def delete(self, key):
        del self._store[key]


def test_a_store_of_08_is_checked_too():
    inner = OldStore()
    store = CheckedStore(inner, event_manager=EventManager())
    store.set("a", (io.BytesIO(DATA), {"n": 1}))
    store.set_metadata("a", {"n": 2})
    store.set_metadata("b", {})
    store.set_data("a", io.BytesIO(DATA))
    assert store.get_metadata("a") == {"n": 2}
    assert store.get_data("a").read() == store.get_data("a").read(10**6) == DATA
    for data in (DATA[1:], DATA + b"x", b""):
        damage(inner, "a", data)
        for read in (
            lambda: store.to_bytes("a"),
            lambda: store.get_data("a").read(),
            lambda: store.get_data("a").readlines(),
        ):
            with pytest.raises(IntegrityError):
                read()
    assert [finding.key for finding in store.verify()] == ["a"]


class Unconditional(WrapperStore):
    """No transactions."""

    def transaction(self, notes=""):
        return AbstractStore.transaction(self, notes)

    def info(self):
        return {**super().info(), "transactional": False}


@pytest.mark.parametrize("method", ["set_metadata", "set_data"])
def test_without_transactions_nothing_that_others_wrote_in_between_is_lost(inner, method):
    store = CheckedStore(Unconditional(inner), event_manager=EventManager())
    other = CheckedStore(inner, event_manager=EventManager())
    other.set("a", (io.BytesIO(b"old"), {"n": 1}))
    turns = [
        lambda: other.set("a", (io.BytesIO(b"other"), {"n": 2})),
        lambda: other.delete("a"),
        lambda: other.set("a", (io.BytesIO(b"third"), {"n": 3})),
    ]
    get = inner.get

    def get_and_lose(key):
        try:
            return get(key)
        finally:
            if turns:
                turns.pop(0)()

    inner.get = get_and_lose
    told = []
    store.event_manager.connect(StoreModificationEvent, told.append)
    if method == "set_data":
        store.set_data("a", io.BytesIO(b"mine"))
    else:
        store.set_metadata("a", {"mine": 1})
    del inner.get
    assert turns == []
    pair = store.to_bytes("a"), store.get_metadata("a")
    assert pair == ((b"mine", {"n": 3}) if method == "set_data" else (b"third", {"mine": 1}))
    assert len(told) == 1
    with pytest.raises(PreconditionError):
        getattr(store, method)("a", {} if "meta" in method else io.BytesIO(), if_match="stale")
    etag = store.get("a").etag
    getattr(store, method)("a", {} if "meta" in method else io.BytesIO(), if_match=etag)
    assert store.get("a").etag != etag


# Writing


def test_no_writer_is_kept_out_while_a_stream_is_read(inner, store):
    store.from_bytes("a", b"old")

    class Meanwhile(io.BytesIO):
        def read(self, size=-1):
            thread = threading.Thread(target=inner.from_bytes, args=("b", b"meanwhile"))
            thread.start()
            thread.join(20)
            assert not thread.is_alive()
            return super().read(size)

    store.set_data("a", Meanwhile(b"new"))
    store.set("c", (Meanwhile(b"new"), {}))
    assert store.to_bytes("b") == b"meanwhile"
    assert store.to_bytes("a") == b"new"


@pytest.mark.parametrize("method", ["set_metadata", "set_data"])
def test_what_is_kept_is_read_and_written_in_one_transaction(inner, store, method):
    store.from_bytes("a", b"old")
    heard = []
    inner.event_manager.connect(StoreTransactionEvent, heard.append)
    getattr(store, method)("a", {} if "meta" in method else io.BytesIO())
    assert len(heard) == 2


def test_one_change_within_for_each(inner, store):
    told = []
    inner.event_manager.connect(StoreModificationEvent, told.append)
    for write in WRITES.values():
        told.clear()
        write(store)
        store.set_metadata("a", {})
        assert [event.key for event in told] == ["a", "a"]
        assert all("encore:sha256" in event.metadata for event in told)


class Sizes(io.RawIOBase):
    """Many bytes that take no memory."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def test_large_data_wait_in_a_file(monkeypatch):
    made = []
    temporary = tempfile.TemporaryFile

    def make(**options):
        file = temporary(**options)
        # The inner store's have a place of their own.
        if not options:
            made.append(file)
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    with CheckedStore(SqliteStore(":memory:", event_manager=EventManager())) as store:
        store.set_data("small", Sizes(2**20))
        assert made == []
        store.set_data("large", Sizes(2**20 + 1))
        store.set("larger", (Sizes(2**21 + 5), {}))
        assert [file.closed for file in made] == [True, True]
        assert store.get("larger").size == 2**21 + 5
        assert store.verify() == []

        class Broken(Sizes):
            def read(self, size=-1):
                if self.left < 2**20:
                    raise KeyboardInterrupt
                return super().read(size)

        with pytest.raises(KeyboardInterrupt):
            store.set_data("large", Broken(2**22))
        assert made[-1].closed
        assert store.get("large").size == 2**20 + 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_and_keeps_the_old_value(store, monkeypatch):
    store.from_bytes("a", b"old")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: open("/dev/full", "r+b", buffering=0))  # noqa: SIM115
    with pytest.raises(StoreOSError) as caught:
        store.set_data("a", Sizes(2**22))
    assert caught.value.key == "a"
    assert store.to_bytes("a") == b"old"


def test_a_value_of_a_checked_store_goes_straight_through(inner, store, monkeypatch):
    store.set("a", (io.BytesIO(DATA), {"n": 1, "encore:sha256": 2}))
    other = CheckedStore(DictMemoryStore(), event_manager=EventManager())
    monkeypatch.setattr("encore.storage.checked_store.Copy", None)
    other.set("b", store.get("a"))
    store.set("a", store.get("a"))
    store.copy("a", "c")
    for each, key in ((other, "b"), (store, "a"), (store, "c")):
        assert each.to_bytes(key) == DATA
        assert each.get_metadata(key) == {"n": 1, "encore:sha256": 2}
        assert each.verify() == []
    damage(inner, "a", b"x")
    with pytest.raises(IntegrityError):
        other.set("b", store.get("a"))
    assert other.to_bytes("b") == DATA


def test_a_value_with_another_digest_gets_its_own(inner, store):
    other = CheckedStore(DictMemoryStore(), "md5", event_manager=EventManager())
    other.set("a", (io.BytesIO(DATA), {"n": 1}))
    store.set("a", other.get("a"))
    assert set(inner.get_metadata("a")) == {"n", "encore:sha256"}
    damage(other.store, "a", b"x")
    with pytest.raises(IntegrityError):
        store.set("a", other.get("a"))


class Closed:
    def read(self, size):
        raise AssertionError("the stream was read for nothing")


def test_a_stream_is_not_read_for_nothing(tmp_path, store):
    store.from_bytes("a", b"1")
    for write in (
        lambda **condition: store.set("a", (Closed(), {}), **condition),
        lambda **condition: store.set_data("a", Closed(), **condition),
    ):
        with pytest.raises(PreconditionError):
            write(if_none_match="*")
        with pytest.raises(PreconditionError):
            write(if_match="stale")
        with pytest.raises(ValueError, match="'\\*'"):
            write(if_none_match="x")
        with pytest.raises(TypeError):
            write(if_match=5)
    with pytest.raises(PreconditionError):
        store.set_data("no", Closed(), if_match="stale")
    init_shared_store(tmp_path)
    closed = CheckedStore(FileSystemStore(tmp_path))
    for write in (
        lambda: closed.set("a", (Closed(), {})),
        lambda: closed.set_data("a", Closed()),
    ):
        with pytest.raises(StoreError, match="not connected"):
            write()


def test_a_store_that_can_only_be_read_is_verified(tmp_path, inner, store):
    store.from_bytes("a", b"1")
    shown = CheckedStore(ReadOnlyStore(inner), event_manager=EventManager())
    assert shown.info()["readonly"]
    assert shown.to_bytes("a") == b"1"
    for write in (
        lambda: shown.set("a", (Closed(), {})),
        lambda: shown.set_data("a", Closed()),
        lambda: shown.set_metadata("a", {}),
        lambda: shown.delete("a"),
    ):
        with pytest.raises(StoreError, match="can only be read"):
            write()
    damage(inner, "a", b"2")
    assert [finding.key for finding in shown.verify()] == ["a"]


def test_transactions_take_the_digest_back_too(inner, store):
    store.set("a", (io.BytesIO(b"old"), {"n": 1}))
    before = inner.get_metadata("a")

    def fail():
        with store.transaction():
            store.set_data("a", io.BytesIO(b"new"))
            assert store.to_bytes("a") == b"new"
            with store.transaction():
                store.set_metadata("a", {"n": 2})
            assert store.to_bytes("a") == b"new"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inner.get_metadata("a") == before
    assert store.to_bytes("a") == b"old"


# verify()


def test_verify_walks_the_whole_store(inner, store):
    for key in "abcd":
        store.from_bytes(key, key.encode() * 5)
    inner.from_bytes("e", b"plain")
    damage(inner, "b", b"bbbbx")
    damage(inner, "d", b"")
    findings = store.verify()
    assert [finding.key for finding in findings] == ["b", "d", "e"]
    assert str(findings[0]).startswith("'b': the data are damaged: their sha256 is")
    assert store.check() == findings
    assert [finding.key for finding in store.verify("d")] == ["d"]


def test_verify_tells_its_progress(inner, store):
    for key in "abc":
        store.from_bytes(key, key.encode() * 5)
    heard = []
    store.event_manager.connect(StoreProgressEvent, heard.append)
    assert store.verify() == []
    assert [type(event) for event in heard] == [
        StoreProgressStartEvent,
        *[StoreProgressStepEvent] * 3,
        StoreProgressEndEvent,
    ]
    assert (heard[0].steps, heard[0].key, heard[0].source, heard[0].message) == (
        15,
        "",
        store,
        "Verifying",
    )
    assert [event.step for event in heard[1:-1]] == [5, 10, 15]
    assert heard[-1].exit_state == "normal"
    damage(inner, "a", b"x")
    heard.clear()
    store.verify()
    assert (heard[-1].exit_state, heard[-1].message) == (
        "warning",
        "1 of 3 keys are not well",
    )


def test_verify_goes_on_behind_what_is_gone_or_cannot_be_read(inner, store):
    for key in "abc":
        store.from_bytes(key, b"data")
    get = inner.get

    def failing(key):
        if key == "a":
            raise StoreError("cannot be read", key=key)
        if key == "b":
            raise KeyError(key)
        return get(key)

    inner.get = failing
    damage(inner, "c", b"x")
    sizes = []
    for _ in range(2):
        findings = store.verify()
        assert findings[0] == Finding("a", "cannot be read")
        assert [finding.key for finding in findings] == ["a", "c"]
        store.event_manager.connect(StoreProgressStartEvent, sizes.append)
    assert [event.steps for event in sizes] == [1]


def test_check_has_what_the_inner_store_finds(tmp_path):
    init_shared_store(tmp_path)
    with CheckedStore(FileSystemStore(tmp_path)) as store:
        store.from_bytes("a", b"1")
        store.from_bytes("b", b"1")
        (tmp_path / "a.metadata").write_bytes(b"{\xff")
        (tmp_path / "b.data").write_bytes(b"2")
        inner = store.store.check()
        assert inner
        assert store.check()[: len(inner)] == inner
        assert [finding.key for finding in store.check()] == ["a", "b"]


def test_it_is_pickled_and_shown_with_its_algorithm(inner):
    store = CheckedStore(inner, "md5", event_manager=EventManager())
    store.from_bytes("a", b"1")
    assert repr(store) == f"CheckedStore({inner!r}, 'md5')"
    twin = pickle.loads(pickle.dumps(store))
    assert twin.algorithm == "md5"
    assert twin.to_bytes("a") == b"1"
    assert store.info() == {**inner.info(), "type": "CheckedStore"}


def test_values_that_have_changed_places_are_well(inner, store):
    store.from_bytes("a", b"1")
    store.from_bytes("b", b"2")
    a, b = inner.get("a"), inner.get("b")
    inner.set("a", b)
    inner.set("b", a)
    assert store.to_bytes("a") == b"2"
    assert store.verify() == []
