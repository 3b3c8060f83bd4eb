from __future__ import annotations

import io
from concurrent.futures import Future

import pytest

from encore.events.api import Cancelled, EventManager
from encore.storage import _copier, _transfer
from encore.storage.abstract_store import AbstractStore
from encore.storage.copying import CopyReport, copy_store
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.directory_store import DirectoryStore
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.events import (
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreTransactionStartEvent,
)
from encore.storage.sqlite_store import SqliteStore
from encore.storage.string_value import StringValue
from encore.storage.value import Value
from encore.storage.wrapper_store import WrapperStore


class Watched(DictMemoryStore):
    """Counts, and fails where it is told to."""

    def __init__(self):
        super().__init__(event_manager=EventManager())
        self.trouble = {}
        self.events = []
        self.event_manager.connect(
            StoreModificationEvent, lambda event: self.events.append((event.action, event.key))
        )

    def get(self, key):
        if ("get", key) in self.trouble:
            raise self.trouble["get", key]
        return super().get(key)

    def set(self, key, value, *args, **kwargs):
        if ("set", key) in self.trouble:
            raise self.trouble["set", key]
        super().set(key, value, *args, **kwargs)

    def _commit(self):
        if "commit" in self.trouble and "overlay" in self._state.__dict__ and self._state.overlay:
            raise self.trouble.pop("commit")
        super()._commit()


class Bare(AbstractStore):
    """In the style of 0.8, on a dict of tuples."""

    def __init__(self):
        super().__init__(event_manager=EventManager())
        self.values = {}

    def get(self, key):
        return Unsized(*self.values[key])

    def query(self, select=None, **kwargs):
        return iter([(key, metadata) for key, (_, metadata) in self.values.items()])

    def set(self, key, value, buffer_size=1048576):
        data, metadata = (value.data, value.metadata) if isinstance(value, Value) else value
        self.values[key] = (data.read(), metadata)

    def delete(self, key):
        del self.values[key]


class Unsized(Value):
    def __init__(self, content, metadata):
        self.content = content
        self._metadata = metadata

    @property
    def data(self):
        return io.BytesIO(self.content)

    @property
    def metadata(self):
        return dict(self._metadata)


@pytest.fixture
def source():
    store = Watched()
    for number in range(5):
        store.set(f"k{number}", StringValue(b"data%d" % number, {"n": number}))
    return store


@pytest.fixture
def target():
    return Watched()


def content(store):
    return {key: (store.to_bytes(key), metadata) for key, metadata in store.query()}


def outcome(report):
    return (report.copied, report.skipped, list(report.failed))


ALL = ["k0", "k1", "k2", "k3", "k4"]


def test_everything_is_copied(source, target):
    report = copy_store(source, target)
    assert outcome(report) == (ALL, [], [])
    assert content(target) == content(source)
    assert target.events == [("set", key) for key in ALL]


def test_an_empty_store_is_copied():
    report = copy_store(DictMemoryStore(), DictMemoryStore())
    assert outcome(report) == ([], [], [])


def test_a_second_copy_skips_all(source, target):
    copy_store(source, target)
    target.events.clear()
    assert outcome(copy_store(source, target)) == ([], ALL, [])
    assert target.events == []


def test_only_keys_that_match_are_copied(source, target):
    assert copy_store(source, target, match="k[13]").copied == ["k1", "k3"]
    assert copy_store(source, target, match=lambda key: key > "k3").copied == ["k4"]


def test_other_data_in_the_target_are_an_error_and_stay(source, target):
    target.set("k1", StringValue(b"mine!", {"n": 1}))
    target.set("k2", StringValue(b"longer than theirs", {"n": 2}))
    report = copy_store(source, target)
    assert outcome(report) == (["k0", "k3", "k4"], [], ["k1", "k2"])
    error = report.failed["k1"]
    assert isinstance(error, StoreError)
    assert error.key == "k1"
    assert target.to_bytes("k1") == b"mine!"
    assert target.to_bytes("k2") == b"longer than theirs"


def test_other_data_in_the_target_are_overwritten_when_asked(source, target):
    target.set("k1", StringValue(b"mine!", {"n": 1}))
    target.set("k2", StringValue(b"data2", {"n": 2}))
    report = copy_store(source, target, on_conflict="overwrite")
    assert outcome(report) == (["k0", "k1", "k3", "k4"], ["k2"], [])
    assert content(target) == content(source)


def test_whatever_is_there_can_be_left_as_it_is(source, target):
    target.set("k1", StringValue(b"mine!", {"n": 1}))
    target.set("k2", StringValue(b"data2", {"mine": True}))
    report = copy_store(source, target, on_conflict="skip")
    assert outcome(report) == (["k0", "k3", "k4"], ["k1", "k2"], [])
    assert target.get_metadata("k2") == {"mine": True}


@pytest.mark.parametrize("policy", ["error", "overwrite"])
def test_other_metadata_are_set_without_the_data(source, target, policy):
    copy_store(source, target)
    source.set_metadata("k1", {"n": "one"})
    target.trouble["set", "k1"] = AssertionError("data written again")
    target.events.clear()
    report = copy_store(source, target, on_conflict=policy)
    assert outcome(report) == (["k1"], ["k0", "k2", "k3", "k4"], [])
    assert target.events == [("update", "k1")]
    assert target.get_metadata("k1") == {"n": "one"}


def test_the_same_etag_in_another_store_says_nothing():
    """Clocks may be coarse, or have gone back."""
    source, target = Watched(), Watched()
    source._clock = target._clock = lambda: 1e9
    source.from_bytes("key", b"new")
    target.from_bytes("key", b"old")
    assert source.get("key").etag == target.get("key").etag
    assert list(copy_store(source, target).failed) == ["key"]
    assert copy_store(source, target, on_conflict="overwrite").copied == ["key"]
    assert target.to_bytes("key") == b"new"


def test_a_commit_that_fails_does_not_keep_a_copy_from_being_cancelled(source, target, monkeypatch):
    class Cancel:
        @property
        def cancelled(self):
            return target.exists("k1")

    class Failing:
        def __enter__(self):
            pass

        def __exit__(self, *exc_info):
            raise StoreError("disk full")

    monkeypatch.setattr(target, "transaction", lambda notes: Failing())
    with pytest.raises(Cancelled) as raised:
        copy_store(source, target, cancel=Cancel())
    assert list(raised.value.report.failed) == ["k0", "k1"]


def test_a_failure_stops_no_other_key(source, target):
    unreadable, unwritable = StoreError("unreadable"), OSError("disk full")
    source.trouble["get", "k1"] = unreadable
    target.trouble["set", "k3"] = unwritable
    report = copy_store(source, target)
    assert report.copied == ["k0", "k2", "k4"]
    assert report.failed == {"k1": unreadable, "k3": unwritable}
    assert sorted(target.query_keys()) == ["k0", "k2", "k4"]
    del source.trouble["get", "k1"], target.trouble["set", "k3"]
    assert outcome(copy_store(source, target)) == (["k1", "k3"], ["k0", "k2", "k4"], [])


def test_a_key_deleted_meanwhile_is_no_failure(source, target):
    def delete(event):
        for key in ("k3", "k4"):
            if source.exists(key):
                source.delete(key)

    events = EventManager()
    events.connect(StoreProgressStepEvent, delete)
    report = copy_store(source, target, event_manager=events)
    assert outcome(report) == (["k0", "k1", "k2"], [], [])


def test_a_source_that_cannot_say_whether_a_key_is_gone_has_failed(source, target, monkeypatch):
    source.trouble["get", "k1"] = StoreError("unreachable")

    def exists(key):
        raise StoreError("unreachable")

    monkeypatch.setattr(source, "exists", exists)
    assert list(copy_store(source, target).failed) == ["k1"]


def test_keyboard_interrupt_passes_and_leaves_the_target_whole(source, target):
    source.trouble["get", "k2"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        copy_store(source, target)
    assert content(target) == {}
    assert not target.events
    source.trouble.clear()
    copy_store(source, target)
    assert content(target) == content(source)


def test_batches_are_transactions_of_limited_size(source, target, monkeypatch):
    monkeypatch.setattr(_copier, "_BATCH_KEYS", 2)
    begun = []
    target.event_manager.connect(StoreTransactionStartEvent, begun.append)
    copy_store(source, target)
    assert len(begun) == 3
    monkeypatch.setattr(_copier, "_BATCH_KEYS", 1000)
    monkeypatch.setattr(_copier, "_BATCH_BYTES", 10)
    begun.clear()
    copy_store(source, target, on_conflict="overwrite")
    assert len(begun) == 3


def test_a_transaction_that_fails_fails_its_keys_only(source, target, monkeypatch):
    monkeypatch.setattr(_copier, "_BATCH_KEYS", 2)
    full = StoreError("disk full")
    target.trouble["commit"] = full
    report = copy_store(source, target)
    assert report.copied == ["k2", "k3", "k4"]
    assert report.failed == {"k0": full, "k1": full}
    assert sorted(target.query_keys()) == ["k2", "k3", "k4"]


def test_a_target_that_is_not_connected_is_an_error(source, tmp_path):
    with pytest.raises(StoreError, match="not connected"):
        copy_store(source, SqliteStore(str(tmp_path / "x.db")))


def test_one_of_two_writers_wins(source, target):
    # Another writer comes between the look and the write.
    get = target.get

    def late(key):
        try:
            return get(key)
        finally:
            if key == "k1" and not target.exists("k1"):
                target.from_bytes("k1", b"theirs")

    target.get = late
    report = copy_store(source, target)
    assert isinstance(report.failed["k1"], PreconditionError)
    assert target.to_bytes("k1") == b"theirs"


def test_skipping_leaves_what_came_meanwhile(source, target):
    exists = target.exists

    def late(key):
        try:
            return exists(key)
        finally:
            if key == "k1":
                target.from_bytes("k1", b"theirs")

    target.exists = late
    report = copy_store(source, target, on_conflict="skip")
    assert report.skipped == ["k1"]
    assert target.to_bytes("k1") == b"theirs"


def test_stores_of_the_old_style_can_be_copied_and_filled(source):
    old = Bare()
    assert copy_store(source, old).copied == ALL
    assert copy_store(source, old).skipped == ALL
    old.values["k1"] = (b"data1", {"other": 1})
    again = Watched()
    assert copy_store(old, again).copied == ALL
    assert again.get_metadata("k1") == {"other": 1}
    assert copy_store(source, old).copied == ["k1"]
    assert old.values["k1"] == (b"data1", {"n": 1})


def test_a_large_value_reaches_a_store_that_reads_all_at_once(monkeypatch):
    data = bytes(range(256)) * (_transfer.BUFFER_SIZE // 100)
    source, target = DictMemoryStore(event_manager=EventManager()), Bare()
    source.from_bytes("large", data)
    for progress in (False, True):
        if progress:
            target.event_manager.connect(StoreProgressEvent, lambda event: None)
        target.values.clear()
        copy_store(source, WrapperStore(target, event_manager=target.event_manager))
        assert target.values == {"large": (data, {})}


def progress_of(source, target, **arguments):
    events, seen = EventManager(), []
    events.connect(StoreProgressEvent, seen.append)
    report = copy_store(source, target, event_manager=events, **arguments)
    return report, seen


def test_progress_counts_the_bytes_of_all_keys(source, target):
    _, seen = progress_of(source, target)
    start, *steps, end = seen
    assert isinstance(start, StoreProgressStartEvent)
    assert isinstance(end, StoreProgressEndEvent)
    assert (start.steps, start.unit, start.source) == (25, "B", target)
    assert [event.step for event in steps] == [5, 10, 15, 20, 25]
    assert end.exit_state == "normal"
    assert len({event.operation_id for event in seen}) == 1
    assert progress_of(source, target)[1][-2].step == 25


def test_progress_goes_to_the_target_by_default(source, target):
    seen = []
    target.event_manager.connect(StoreProgressStartEvent, lambda event: seen.append(event.message))
    copy_store(source, target)
    assert seen[0] == "Copying"


def test_progress_of_failures_ends_with_a_warning(source, target):
    source.trouble["get", "k1"] = StoreError("unreadable")
    _, seen = progress_of(source, target)
    assert seen[0].steps == 20
    assert seen[-1].exit_state == "warning"
    assert seen[-1].message == "1 of 5 keys failed"


def test_progress_ends_when_the_copy_is_interrupted(source, target):
    target.trouble["set", "k1"] = KeyboardInterrupt()
    events, seen = EventManager(), []
    events.connect(StoreProgressEndEvent, seen.append)
    with pytest.raises(KeyboardInterrupt):
        copy_store(source, target, event_manager=events)
    assert [(event.exit_state, event.message) for event in seen] == [("exception", "interrupted")]


def test_progress_moves_inside_a_large_value(source, target, monkeypatch):
    monkeypatch.setattr(_transfer, "BUFFER_SIZE", 2)
    _, seen = progress_of(source, target)
    assert [event.step for event in seen[1:-1]][:5] == [2, 4, 5, 7, 9]
    target.from_bytes("k0", b"DATA0")
    _, seen = progress_of(source, target, on_conflict="overwrite")
    steps = [event.step for event in seen[1:-1]]
    assert steps == sorted(steps)
    assert steps[-1] == 25
    assert content(target) == content(source)


class Cancelling:
    """A target's listener that cancels after a number of events."""

    cancelled = False

    def after(self, count, manager, kind):
        def listener(event):
            nonlocal count
            count -= 1
            self.cancelled = count <= 0

        manager.connect(kind, listener, {"key": ""})  # the progress of the whole


def test_a_cancelled_copy_keeps_the_keys_that_are_complete(source, target):
    cancel = Cancelling()
    cancel.after(2, target.event_manager, StoreProgressStepEvent)
    ends = []
    target.event_manager.connect(StoreProgressEndEvent, ends.append, {"key": ""})
    with pytest.raises(Cancelled):
        copy_store(source, target, cancel=cancel)
    keys = sorted(source.keys())
    assert sorted(target.keys()) == keys[:2]
    assert [target.to_bytes(key) for key in keys[:2]] == [source.to_bytes(key) for key in keys[:2]]
    assert [end.exit_state for end in ends] == ["warning"]
    report = copy_store(source, target)
    assert (report.skipped, sorted(target.keys())) == (keys[:2], keys)


def test_a_cancelled_copy_breaks_off_inside_a_large_value(target, monkeypatch):
    monkeypatch.setattr(_transfer, "BUFFER_SIZE", 10)
    source = DictMemoryStore(event_manager=EventManager())
    source.from_bytes("large", b"x" * 1000)
    target.from_bytes("large", b"old")
    cancel = Cancelling()
    cancel.after(3, target.event_manager, StoreProgressStepEvent)
    with pytest.raises(Cancelled):
        copy_store(source, target, on_conflict="overwrite", cancel=cancel)
    assert target.to_bytes("large") == b"old"


@pytest.mark.parametrize("done", [True, False])
def test_a_copy_can_be_cancelled_where_nobody_listens(source, target, done):
    future = Future()
    if not done:
        future.cancel()
        with pytest.raises(Cancelled):
            copy_store(source, target, cancel=future)
        assert list(target.keys()) == []
    else:
        assert copy_store(source, target, cancel=future).copied == sorted(source.keys())


def test_what_cannot_be_asked_whether_it_is_cancelled_is_refused(source, target):
    with pytest.raises(TypeError, match="cancelled"):
        copy_store(source, target, cancel=object())
    assert list(target.keys()) == []


def test_progress_of_unknown_sizes_counts_what_was_read(target):
    source = Bare()
    source.values = {"a": (b"12345", {}), "b": (b"678", {})}
    _, seen = progress_of(source, target)
    assert seen[0].steps == -1
    assert seen[-2].step == 8
    assert content(target) == {"a": (b"12345", {}), "b": (b"678", {})}


def test_a_file_changed_meanwhile_fails_alone(tmp_path, target):
    large = b"x" * 3_000_000
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(large)
    source = DirectoryStore(tmp_path)

    def touch(event):
        if event.step == 3_000_000 + _transfer.BUFFER_SIZE:
            with open(tmp_path / "b", "ab") as file:
                file.write(b"more")

    events = EventManager()
    events.connect(StoreProgressStepEvent, touch)
    with source:
        report = copy_store(source, target, event_manager=events)
    assert outcome(report) == (["a", "c"], [], ["b"])
    assert not target.exists("b")


def test_a_store_is_not_copied_to_itself(source):
    with pytest.raises(ValueError, match="itself"):
        copy_store(source, source)


@pytest.mark.parametrize("policy", ["new", "", None])
def test_unknown_policies_are_refused(source, target, policy):
    with pytest.raises(ValueError, match="error, skip, overwrite"):
        copy_store(source, target, on_conflict=policy)


def test_what_is_no_store_is_refused(source, target, tmp_path):
    with pytest.raises(TypeError, match="source"):
        copy_store({}, target)
    with pytest.raises(TypeError, match="target"):
        copy_store(source, {})
    with pytest.raises(TypeError, match="target"):
        copy_store(source, DirectoryStore(tmp_path))
    with pytest.raises(TypeError, match="pattern"):
        copy_store(source, target, match=1)


def test_a_report_says_how_many():
    report = CopyReport()
    report.copied.append("a")
    assert str(report) == "1 copied, 0 skipped, 0 failed"
    assert repr(report) == "<CopyReport: 1 copied, 0 skipped, 0 failed>"
