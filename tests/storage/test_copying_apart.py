"""copy_store() with threads, by the clock, and sync_store()."""

from __future__ import annotations

import io
import threading

import pytest

from encore.events.api import Cancelled, EventManager
from encore.storage import _copier, _transfer
from encore.storage._wrapped_value import WrappedValue
from encore.storage.abstract_store import AbstractStore
from encore.storage.copying import copy_store, sync_store
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import StoreError
from encore.storage.events import StoreModificationEvent, StoreProgressEvent
from encore.storage.hash_prefix_store import HashPrefixStore
from encore.storage.joined_store import JoinedStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.read_only_store import ReadOnlyStore
from encore.storage.sqlite_store import SqliteStore
from encore.storage.string_value import StringValue

KEYS = [f"k{number:02}" for number in range(20)]
DEADLINE = 30


class Far(AbstractStore):
    """A store without transactions, which notes the threads that use it."""

    def __init__(self, contents=None):
        super().__init__(event_manager=EventManager())
        self.contents = {} if contents is None else contents
        self.threads = {}
        self.trouble = {}
        self.hook = lambda action, key: None

    def note(self, action, key):
        self.threads.setdefault(action, set()).add(threading.current_thread())
        self.hook(action, key)
        if (action, key) in self.trouble:
            raise self.trouble[action, key]

    def get(self, key):
        self.note("get", key)
        return self.contents[key]

    def query(self, select=None, *, where=None, **kwargs):
        return iter([(key, value.metadata) for key, value in self.contents.items()])

    def set(self, key, value, buffer_size=1 << 20, **conditions):
        self.note("set", key)
        stream, metadata = value if isinstance(value, tuple) else (value.data, value.metadata)
        self.contents[key] = StringValue(stream.read(), metadata)

    def delete(self, key):
        self.note("delete", key)
        del self.contents[key]

    def others(self, action):
        return self.threads.get(action, set()) - {threading.main_thread()}


def values(keys=KEYS):
    return {key: StringValue(key.encode(), {"key": key}) for key in keys}


def near(contents):
    store = DictMemoryStore(event_manager=EventManager())
    store.multiset(contents, contents.values())
    return store


def content(store):
    return {key: (store.to_bytes(key), metadata) for key, metadata in store.query()}


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (lambda: Far(values()), Far),
        (lambda: Far(values()), lambda: near({})),
        (lambda: near(values()), Far),
        (lambda: ReadOnlyStore(near(values())), lambda: near({})),
    ],
    ids=["far to far", "far to near", "near to far", "read only"],
)
def test_threads_copy_all_and_report_in_order(source, target):
    source, target = source(), target()
    for expected in ((KEYS, []), ([], KEYS)):
        report = copy_store(source, target)
        assert (report.copied, report.skipped, report.failed) == (*expected, {})
        assert content(target) == content(source)


def test_a_far_source_is_read_by_several_threads_at_once():
    source, target = Far(values()), near({})
    barrier = threading.Barrier(4, timeout=DEADLINE)
    first = iter(range(4))

    def meet(action, key):
        if next(first, None) is not None:
            barrier.wait()

    source.hook = meet
    copy_store(source, target, workers=4)
    assert len(source.others("get")) == 4
    source = Far(values())
    copy_store(source, near({}), workers=1)
    assert not source.others("get")


def test_a_far_target_is_written_by_several_threads_at_once():
    source, target = near(values()), Far()
    barrier = threading.Barrier(4, timeout=DEADLINE)
    first = iter(range(4))
    target.hook = lambda action, key: (
        action == "set" and next(first, None) is not None and barrier.wait()
    )
    copy_store(source, target, workers=4)
    assert len(target.others("set")) == 4


def test_the_callers_transactions_are_seen():
    source, target = near(values()), near({})
    with source.transaction(), target.transaction():
        source.from_bytes("new", b"new")
        target.from_bytes("k01", b"k01")
        assert copy_store(source, target).copied == sorted([*KEYS, "new"])
    source = near(values())
    with source.transaction():
        source.from_bytes("new", b"new")
        assert "new" in copy_store(source, Far()).copied


@pytest.mark.parametrize("where", ["source", "target"])
def test_failures_in_threads_stop_no_other_key(where):
    source, target = Far(values()), Far()
    error = StoreError("no")
    store, action = {"source": (source, "get"), "target": (target, "set")}[where]
    store.trouble[action, "k07"] = error
    report = copy_store(source, target)
    assert report.failed == {"k07": error}
    assert len(report.copied) == 19


def test_an_interrupt_in_a_thread_ends_the_copy():
    source = Far(values())
    source.trouble["get", "k03"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        copy_store(source, near({}))


def test_not_much_is_read_ahead():
    source = Far(values([f"k{number:03}" for number in range(200)]))
    target = near({})
    most = [0]
    read = []
    source.hook = lambda action, key: read.append(key)
    target.event_manager.connect(
        StoreModificationEvent,
        lambda event: most.append(len(read) - len(target._store)),
    )
    copy_store(source, target, workers=2)
    assert max(most) <= 5


def test_a_short_read_is_a_failure():
    source = Far(values())

    source.contents["k05"].size = 1000
    target = near({})
    report = copy_store(source, target)
    assert list(report.failed) == ["k05"]
    assert not target.exists("k05")


def test_progress_of_threads(monkeypatch):
    monkeypatch.setattr(_transfer, "BUFFER_SIZE", 1)
    monkeypatch.setattr(_copier, "_LOOK", 0.001)
    for source, target in ((Far(values()), Far()), (Far(values()), near({}))):
        events, seen, threads = EventManager(), [], set()
        events.connect(
            StoreProgressEvent,
            lambda event: (seen.append(event), threads.add(threading.current_thread())),  # noqa: B023
        )
        copy_store(source, target, event_manager=events)
        size = sum(map(len, KEYS))
        steps = [event.step for event in seen[1:-1]]
        assert seen[0].steps == steps[-1] == size
        assert steps == sorted(set(steps))
        assert threads == {threading.main_thread()}
        assert content(source) == content(target)


def test_a_cancelled_copy_of_threads_keeps_what_is_complete():
    class Cancel:
        cancelled = False

    cancel = Cancel()
    source, target = Far(values()), Far()

    def stop(action, key):
        if action == "set" and key == "k05":
            cancel.cancelled = True

    target.hook = stop
    with pytest.raises(Cancelled) as caught:
        copy_store(source, target, cancel=cancel, workers=2)
    assert sorted(caught.value.report.copied) == sorted(target.contents) != KEYS
    assert content(target).items() <= content(source).items()
    assert len(copy_store(source, target).copied) + len(target.contents) >= 20
    assert content(target) == content(source)


def test_what_threads_complete_after_the_copy_was_cancelled_is_reported():
    go_on = threading.Event()

    class Cancel:
        @property
        def cancelled(self):
            if "k01" not in target.contents:
                return False
            go_on.set()
            return True

    def wait(action, key):
        if action == "set" and key == "k00":
            assert go_on.wait(DEADLINE)

    target = Far()
    target.hook = wait
    with pytest.raises(Cancelled) as caught:
        copy_store(Far(values()), target, cancel=Cancel(), workers=2)
    assert "k00" in target.contents
    assert sorted(caught.value.report.copied) == sorted(target.contents)


@pytest.mark.parametrize("workers", [0, -1])
def test_too_few_workers(workers):
    with pytest.raises(ValueError, match="worker"):
        copy_store(near({}), near({}), workers=workers)


@pytest.mark.parametrize("workers", [1.5, "4", True, None])
def test_workers_that_are_no_number(workers):
    with pytest.raises(TypeError, match="workers"):
        copy_store(near({}), near({}), workers=workers)


# Newer


@pytest.fixture
def dated():
    """Two stores, with data of both ages in each."""
    source, target = near({}), near({})
    for store, newer in ((source, "a"), (target, "b")):
        for key in "abcd":
            at = 200.0 if key == newer else 100.0
            name = b"source" if store is source else b"target"
            store._store[key] = (name, {}, at, at)
    return source, target


def test_only_what_is_newer_is_written(dated):
    source, target = dated
    source.set("e", (io.BytesIO(b"source"), {}))
    report = copy_store(source, target, on_conflict="newer")
    assert (report.copied, report.skipped, report.failed) == (["a", "e"], ["b", "c", "d"], {})
    assert target.to_bytes("a") == b"source"
    assert target.to_bytes("c") == b"target"


def test_metadata_that_are_newer_are_set(dated):
    source, target = dated
    for key in "ab":
        target._store[key] = (b"source", {"old": key}, *target._store[key][2:])
    assert copy_store(source, target, on_conflict="newer").copied == ["a"]
    assert target.get_metadata("a") == {}
    assert target.get_metadata("b") == {"old": "b"}


def test_what_has_no_date_is_not_newer(dated):
    source, target = Far({"a": StringValue(b"source")}), dated[1]
    source.contents["a"].modified = None
    report = copy_store(source, target, on_conflict="newer")
    assert "not known when" in str(report.failed["a"])
    assert target.to_bytes("a") == b"target"


def test_what_becomes_newer_meanwhile_is_kept(dated):
    source, target = dated
    get = target.get

    def late(key):
        try:
            return get(key)
        finally:
            if key == "a":
                target.get = get
                target.from_bytes("a", b"newest")

    target.get = late
    assert list(copy_store(source, target, on_conflict="newer").failed) == ["a"]
    assert target.to_bytes("a") == b"newest"


# sync_store()


@pytest.fixture
def pair():
    source = near(values(["a", "b", "new"]))
    target = near(values(["a", "gone", "gone too"]))
    target.from_bytes("b", b"other")
    return source, target


def test_sync_overwrites_and_leaves_what_is_gone(pair):
    source, target = pair
    report = sync_store(source, target)
    assert (report.copied, report.skipped, report.deleted) == (["b", "new"], ["a"], [])
    assert set(target.keys()) == {"a", "b", "new", "gone", "gone too"}
    assert target.to_bytes("b") == b"b"


def test_sync_deletes_what_is_gone_if_asked(pair):
    source, target = pair
    report = sync_store(source, target, delete=True)
    assert report.deleted == ["gone", "gone too"]
    assert str(report) == "2 copied, 1 skipped, 0 failed, 2 deleted"
    assert content(target) == content(source)


def test_sync_deletes_only_what_matches(pair):
    source, target = pair
    report = sync_store(source, target, match="* *", delete=True)
    assert (report.copied, report.deleted) == ([], ["gone too"])
    assert sync_store(source, target, match=lambda key: "o" in key, delete=True).deleted == ["gone"]


@pytest.mark.parametrize("far", [False, True])
def test_a_dry_run_reports_the_same_and_does_nothing(pair, far):
    source, target = pair
    source.set_metadata("a", {"changed": True})
    if far:
        target = Far({key: target.get(key) for key in target.query_keys()})
    before = content(target)
    heard = []
    target.event_manager.connect(StoreModificationEvent, heard.append)
    would = sync_store(source, target, delete=True, dry_run=True)
    assert content(target) == before
    assert not heard
    assert not {"set", "delete"} & set(getattr(target, "threads", ()))
    done = sync_store(source, target, delete=True)
    for name in ("copied", "skipped", "failed", "deleted"):
        assert getattr(would, name) == getattr(done, name)
    assert done.copied == ["a", "b", "new"]
    assert str(would) == f"would be: {done}"
    assert (would.dry_run, done.dry_run) == (True, False)


def test_nothing_is_deleted_after_a_failure(pair):
    source, target = pair
    far = Far({key: source.get(key) for key in source.query_keys()})
    far.trouble["get", "b"] = StoreError("unreadable")
    report = sync_store(far, target, delete=True)
    assert list(report.failed) == ["b"]
    assert report.deleted == []
    assert target.exists("gone")


def test_nothing_is_deleted_from_the_source_where_it_lies_in_the_target():
    whole = near({"part/a": StringValue(b"a"), "other": StringValue(b"other")})
    part = PrefixStore(whole, "part/", event_manager=EventManager())
    assert sync_store(part, whole, delete=True).deleted == ["other"]
    assert list(whole.keys()) == ["a", "part/a"]
    assert sync_store(part, whole, delete=True).deleted == []


@pytest.mark.parametrize("match", [None, "[!p]*"])
def test_where_the_target_lies_in_the_source_its_keys_are_none_of_the_source(match):
    whole = near({"a": StringValue(b"a")})
    part = PrefixStore(JoinedStore([near({}), whole]), "part/", event_manager=EventManager())
    whole.from_bytes("part/gone", b"")
    assert sync_store(whole, part, match=match, delete=True).deleted == ["gone"]
    assert list(part.keys()) == ["a"]
    assert list(whole.keys()) == ["a"]


def backup(whole):
    return PrefixStore(whole, "backup/", event_manager=EventManager())


def spread(whole):
    return HashPrefixStore(whole, 2, event_manager=EventManager())


@pytest.mark.parametrize("inside", [backup, spread])
@pytest.mark.parametrize("twice", [False, True])
def test_a_copy_within_the_source_does_not_nest(tmp_path, inside, twice):
    whole = SqliteStore(tmp_path / "a.db", event_manager=EventManager())
    other = SqliteStore(tmp_path / "a.db", event_manager=EventManager()) if twice else whole
    with whole, other:
        whole.from_bytes("a", b"1")
        target = inside(other)
        assert copy_store(whole, target).copied == ["a"]
        keys = list(whole.keys())
        assert len(keys) == 2
        again = copy_store(whole, target)
        assert (again.copied, again.skipped) == ([], ["a"])
        assert list(whole.keys()) == keys
        whole.delete("a")
        assert sync_store(whole, target, delete=True, dry_run=True).deleted == ["a"]
        assert sync_store(whole, target, delete=True).deleted == ["a"]
        assert list(whole.keys()) == []


def test_a_copy_within_the_source_can_be_brought_back():
    whole = near({"a": StringValue(b"1"), "backup/x": StringValue(b"2")})
    part = backup(whole)
    assert copy_store(part, whole).copied == ["x"]
    # It was nested before.
    whole.from_bytes("backup/backup/x", b"3")
    assert "backup/x" in copy_store(part, whole, on_conflict="overwrite").copied


def test_a_part_may_be_copied_deeper():
    whole = near({"a/1": StringValue(b"1"), "2": StringValue(b"2")})
    manager = EventManager()
    part, deeper = (PrefixStore(whole, name, event_manager=manager) for name in ("a/", "a/b/"))
    for _ in range(2):
        copy_store(part, deeper)
    assert list(whole.keys()) == ["2", "a/1", "a/b/1"]


def test_all_of_a_joined_store_goes_into_one_of_its_members():
    one, other = near({"a": StringValue(b"1")}), near({"b": StringValue(b"2")})
    assert copy_store(JoinedStore([one, other]), one).copied == ["b"]


def test_the_same_place_by_two_objects_is_not_copied(tmp_path):
    one, other = (SqliteStore(tmp_path / "a.db", event_manager=EventManager()) for _ in range(2))
    with pytest.raises(ValueError, match="same place"):
        sync_store(ReadOnlyStore(one), other, delete=True)


def test_two_parts_of_one_store_are_two_stores():
    whole = near({"a/new": StringValue(b""), "b/gone": StringValue(b"")})
    one, other = (PrefixStore(whole, name, event_manager=EventManager()) for name in ("a/", "b/"))
    assert sync_store(one, other, delete=True).deleted == ["gone"]
    assert list(whole.keys()) == ["a/new", "b/new"]


def test_what_comes_meanwhile_is_not_deleted(pair):
    source, target = pair

    def come(event):
        if not source.exists("gone"):
            source.from_bytes("gone", b"back")

    target.event_manager.connect(StoreModificationEvent, come)
    assert sync_store(source, target, delete=True).deleted == ["gone too"]
    assert target.exists("gone")


def test_a_delete_that_fails_is_reported_and_stops_no_other(pair):
    source, target = pair
    far = Far({key: target.get(key) for key in target.query_keys()})
    error = StoreError("no")
    far.trouble["delete", "gone"] = error
    report = sync_store(source, far, delete=True)
    assert (report.deleted, report.failed) == (["gone too"], {"gone": error})


def test_a_cancelled_sync_deletes_no_more(pair):
    source, target = pair

    class Cancel:
        cancelled = False

    cancel = Cancel()
    exists = source.exists

    def stop(key):
        cancel.cancelled = key == "gone"
        return exists(key)

    source.exists = stop
    with pytest.raises(Cancelled) as caught:
        sync_store(source, target, delete=True, cancel=cancel)
    assert caught.value.report.copied == ["b", "new"]
    assert target.exists("gone too")


class NoSize(WrappedValue):
    """What is known only after a request: it fails."""

    size = property(lambda self: self._fail())
    data = property(lambda self: self._fail())

    def __init__(self, error):
        super().__init__(StringValue(b""))
        self.error = error

    def _fail(self):
        raise self.error


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("error", [KeyError("bad"), StoreError("bad"), RuntimeError("bad")])
@pytest.mark.parametrize("heard", [False, True])
@pytest.mark.parametrize("target", [Far, DictMemoryStore])
def test_a_key_whose_size_cannot_be_told_stops_no_other(target, heard, error, workers):
    source, target = Far(values()), target()
    target.event_manager = EventManager()
    source.contents["k10"] = NoSize(error)
    seen = []
    if heard:
        target.event_manager.connect(StoreProgressEvent, seen.append, {"key": ""})
    with target:
        report = copy_store(source, target, workers=workers)
        assert report.failed == {"k10": error}
        assert report.copied == sorted(set(KEYS) - {"k10"})
        assert sorted(target.query_keys()) == report.copied
    assert bool(seen) == heard


def test_a_key_that_was_written_is_copied_even_if_its_size_cannot_be_told():
    class Vanishing(WrappedValue):
        data = property(lambda self: self._value.data)

        @property
        def size(self):
            if "a" in target.contents:
                raise StoreError("gone")
            return 1

    target = Far()
    report = copy_store(Far({"a": Vanishing(StringValue(b"a"))}), target, workers=1)
    assert (report.copied, report.failed) == (["a"], {})


def test_a_key_that_is_gone_with_its_size_is_none_of_these():
    source, target = Far(values()), Far()

    class Forgetful(NoSize):
        def _fail(self):
            source.contents.pop("k10", None)
            raise self.error

    source.contents["k10"] = Forgetful(KeyError("k10"))
    report = copy_store(source, target)
    assert report.failed == {}
    assert report.copied == sorted(set(KEYS) - {"k10"})


def test_progress_does_not_claim_the_bytes_of_a_key_that_failed():
    target = Far()
    target.trouble["set", "k03"] = StoreError("full")
    seen = []
    target.event_manager.connect(StoreProgressEvent, seen.append, {"key": ""})
    report = copy_store(Far(values()), target)
    assert list(report.failed) == ["k03"]
    assert seen[0].steps == 3 * len(KEYS)
    assert seen[-2].step == 3 * (len(KEYS) - 1)
