"""WrapperStore: what another store does, told as its own."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest

from encore.events.api import EventManager, get_event_manager
from encore.storage.abstract_store import AbstractReadOnlyStore, AbstractStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.directory_store import DirectoryStore
from encore.storage.errors import PreconditionError, StoreError
from encore.storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from encore.storage.string_value import StringValue
from encore.storage.utils import DummyTransactionContext, SimpleTransactionContext
from encore.storage.wrapper_store import WrapperStore


class OldStore(AbstractStore):
    """A store in the style of 0.8, which tells nobody but its event manager."""

    def __init__(self, event_manager):
        super().__init__(event_manager=event_manager)
        self.contents = {}

    def get(self, key):
        return StringValue(*self.contents[key])

    def query(self, select=None, **kwargs):
        for key, (_, metadata) in list(self.contents.items()):
            if all(name in metadata and metadata[name] == value for name, value in kwargs.items()):
                yield (
                    key,
                    dict(metadata)
                    if select is None
                    else {n: metadata[n] for n in select if n in metadata},
                )

    def query_keys(self, **kwargs):
        return (key for key, _ in self.query(**kwargs))

    def set(self, key, value, buffer_size=1048576):
        data, metadata = (value.data, value.metadata) if not isinstance(value, tuple) else value
        pieces = []
        while piece := data.read(buffer_size):
            pieces.append(piece)
        kind = StoreUpdateEvent if key in self.contents else StoreSetEvent
        self.contents[key] = (b"".join(pieces), metadata)
        self.event_manager.emit(kind(self, key=key, metadata=metadata))

    def delete(self, key):
        metadata = self.contents.pop(key)[1]
        self.event_manager.emit(StoreDeleteEvent(self, key=key, metadata=metadata))


class OldTransactionalStore(OldStore):
    def transaction(self, notes):
        return SimpleTransactionContext(self)

    def _begin_transaction(self):
        self._saved = self.contents.copy()

    def _commit_transaction(self):
        pass

    def _rollback_transaction(self):
        self.contents = self._saved


class Pair:
    """A wrapper, the store within, and what their managers heard."""

    def __init__(self, inner, kind=StoreModificationEvent):
        self.inner = inner
        self.manager = EventManager()
        self.wrapper = WrapperStore(inner, event_manager=self.manager)
        self.kind = kind
        self.heard = []
        self.all = []
        self.manager.connect(kind, self.hear("wrapper", self.wrapper))
        inner.event_manager.connect(kind, self.hear("inner", inner))

    def hear(self, name, store):
        def listener(event):
            assert event.source is store
            self.all.append(event)
            state = getattr(event, "state", None)
            self.heard.append((name, type(event).__name__[5:-5], getattr(event, "key", state)))

        return listener

    def take(self):
        heard, self.heard = self.heard, []
        return heard


INNER = {
    "new": lambda: DictMemoryStore(event_manager=EventManager()),
    "old": lambda: OldStore(EventManager()),
    "old, transactional": lambda: OldTransactionalStore(EventManager()),
}


@pytest.fixture(params=list(INNER))
def pair(request):
    return Pair(INNER[request.param]())


@pytest.fixture(params=["new", "old, transactional"])
def transactional(request):
    return Pair(
        INNER[request.param](), StoreEvent if request.param == "new" else (StoreModificationEvent)
    )


def both(kind, key):
    return [("inner", kind, key), ("wrapper", kind, key)]


# Events


def test_each_change_is_told_once_by_each(pair, tmp_path):
    wrapper = pair.wrapper
    (tmp_path / "x").write_bytes(b"file")
    wrapper.set("a", (io.BytesIO(b"1"), {"n": 1}))
    assert pair.take() == both("Set", "a")
    wrapper.set("a", StringValue(b"2", {"n": 2}))
    assert pair.take() == both("Update", "a")
    wrapper.set_data("a", io.BytesIO(b"3"))
    wrapper.set_metadata("a", {"n": 3})
    wrapper.update_metadata("a", {"m": 1})
    wrapper.from_bytes("a", b"4")
    wrapper.from_file("a", tmp_path / "x")
    assert pair.take() == both("Update", "a") * 5
    wrapper.copy("a", "b")
    assert pair.take() == both("Set", "b")
    wrapper.delete("b")
    assert pair.take() == both("Delete", "b")
    assert [event.metadata for event in pair.all[-2:]] == [{"n": 3, "m": 1}] * 2
    wrapper.mapping()["c"] = b""
    assert pair.take() == both("Set", "c")
    assert wrapper.to_bytes("a") == pair.inner.to_bytes("a") == b"file"


def test_bulk_and_move(pair):
    wrapper = pair.wrapper
    wrapper.multiset(iter("ab"), ((io.BytesIO(b"1"), {}) for _ in range(2)))
    assert sorted(pair.take()) == sorted(both("Set", "a") + both("Set", "b"))
    wrapper.multiset_data("ab", [io.BytesIO(b"2"), io.BytesIO(b"2")])
    wrapper.multiset_metadata("ab", [{"x": 1}, {"x": 1}])
    wrapper.multiupdate_metadata("ab", [{"y": 1}, {"y": 1}])
    assert sorted(pair.take()) == sorted((both("Update", "a") + both("Update", "b")) * 3)
    wrapper.move("a", "c")
    for name in ("inner", "wrapper"):
        assert [each for each in pair.heard if each[0] == name] == [
            (name, "Set", "c"),
            (name, "Delete", "a"),
        ]
    assert sorted(wrapper.query_keys(x=1)) == ["b", "c"]


def test_a_failed_change_is_not_told(pair):
    wrapper = pair.wrapper
    wrapper.from_bytes("a", b"1")
    pair.take()

    class Failing:
        def read(self, size):
            raise KeyboardInterrupt

    for use, error in (
        (lambda: wrapper.delete("missing"), KeyError),
        (lambda: wrapper.update_metadata("missing", {}), KeyError),
        (lambda: wrapper.set("a", (Failing(), {})), KeyboardInterrupt),
        (lambda: wrapper.set_data("a", Failing()), KeyboardInterrupt),
        (lambda: wrapper.copy("missing", "b"), KeyError),
        (lambda: wrapper.move("missing", "b"), KeyError),
    ):
        with pytest.raises(error):
            use()
    assert pair.take() == []
    assert wrapper.to_bytes("a") == b"1"


def test_metadata_of_events_are_copies(pair):
    pair.wrapper.set("a", (io.BytesIO(), {"n": [1]}))
    one, other = pair.all
    assert one.metadata == other.metadata == {"n": [1]}
    other.metadata["n"].append(2)
    assert pair.wrapper.get_metadata("a") == {"n": [1]}


def test_what_others_change_in_the_inner_store_is_not_told(pair):
    pair.inner.from_bytes("a", b"1")
    assert pair.take() == [("inner", "Set", "a")]


def test_a_shared_manager_hears_both():
    manager = EventManager()
    wrapper = WrapperStore(DictMemoryStore(event_manager=manager), event_manager=manager)
    heard = []
    manager.connect(StoreModificationEvent, heard.append)
    wrapper.from_bytes("a", b"1")
    assert [(type(event), event.source) for event in heard] == [
        (StoreSetEvent, wrapper.store),
        (StoreSetEvent, wrapper),
    ]


def test_changes_can_be_seen_when_they_are_told(pair):
    seen = []
    pair.manager.connect(
        StoreModificationEvent, lambda event: seen.append(pair.wrapper.exists(event.key))
    )
    pair.wrapper.from_bytes("a", b"1")
    pair.wrapper.delete("a")
    assert seen == [True, False]


def test_two_deep(pair):
    outer = WrapperStore(pair.wrapper, event_manager=EventManager())
    outer.event_manager.connect(StoreModificationEvent, pair.hear("outer", outer))
    outer.from_bytes("a", b"1")
    assert sorted(pair.take()) == [
        ("inner", "Set", "a"),
        ("outer", "Set", "a"),
        ("wrapper", "Set", "a"),
    ]
    outer.delete("a")
    assert sorted(pair.take()) == [
        ("inner", "Delete", "a"),
        ("outer", "Delete", "a"),
        ("wrapper", "Delete", "a"),
    ]
    pair.wrapper.from_bytes("a", b"1")
    assert pair.take() == both("Set", "a")


def test_a_listener_may_use_the_stores(pair):
    def also(event):
        if event.key == "a":
            pair.wrapper.from_bytes("from wrapper's listener", b"2")

    def inner_also(event):
        if event.key == "a":
            pair.inner.from_bytes("from inner's listener", b"3")

    pair.manager.connect(StoreSetEvent, also)
    pair.inner.event_manager.connect(StoreSetEvent, inner_also)
    pair.wrapper.from_bytes("a", b"1")
    assert sorted(pair.take()) == sorted(
        both("Set", "a")
        + both("Set", "from wrapper's listener")
        + [("inner", "Set", "from inner's listener")]
    )


def test_a_stream_may_use_the_stores(pair):
    class Busy(io.BytesIO):
        def read(self, size=-1):
            data = super().read(size)
            if data:
                pair.wrapper.from_bytes("by stream", b"x")
                pair.inner.from_bytes("by stream, inner", b"x")
            return data

    pair.wrapper.set("a", (Busy(b"1"), {}))
    assert sorted(pair.take()) == sorted(
        both("Set", "a") + both("Set", "by stream") + [("inner", "Set", "by stream, inner")]
    )


def test_a_stream_may_begin_a_transaction():
    pair = Pair(INNER["new"](), StoreEvent)

    class Busy(io.BytesIO):
        def read(self, size=-1):
            data = super().read(size)
            if data:
                with pair.wrapper.transaction():
                    pair.wrapper.from_bytes("b", b"x")
            return data

    pair.wrapper.set_data("a", Busy(b"1"))
    own = [each for each in pair.heard if each[0] == "wrapper" and "Progress" not in each[1]]
    assert own == [
        ("wrapper", "TransactionStart", None),
        ("wrapper", "TransactionEnd", "done"),
        ("wrapper", "Set", "b"),
        ("wrapper", "Set", "a"),
    ]


# Transactions


def test_a_transaction_of_the_wrapper(transactional):
    wrapper, inner = transactional.wrapper, transactional.inner
    with wrapper.transaction("note") as context:
        assert context is not None
        wrapper.from_bytes("a", b"1")
        wrapper.from_bytes("a", b"2")
        wrapper.delete("a")
        wrapper.from_bytes("b", b"3")
        assert [
            each for each in transactional.heard if each[1] in ("Set", "Update", "Delete")
        ] == []
    for name in ("inner", "wrapper"):
        told = [
            each[1:]
            for each in transactional.heard
            if each[0] == name and "Progress" not in each[1]
        ]
        changes = [("Set", "a"), ("Update", "a"), ("Delete", "a"), ("Set", "b")]
        assert [each for each in told if "Transaction" not in each[0]] == changes
        if transactional.kind is StoreEvent:
            assert told == [("TransactionStart", None), ("TransactionEnd", "done"), *changes]
    assert inner.to_bytes("b") == b"3"


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_a_transaction_of_the_wrapper_that_fails(transactional, error):
    wrapper = transactional.wrapper
    wrapper.from_bytes("a", b"1")
    transactional.take()
    with pytest.raises(error), wrapper.transaction():  # noqa: PT012 - the block is what fails
        wrapper.from_bytes("a", b"2")
        wrapper.from_bytes("b", b"2")
        raise error
    assert [each for each in transactional.heard if each[1] in ("Set", "Update", "Delete")] == []
    if transactional.kind is StoreEvent:
        assert ("wrapper", "TransactionEnd", "failed") in transactional.heard
    assert wrapper.to_bytes("a") == b"1"
    assert not wrapper.exists("b")
    transactional.take()
    wrapper.from_bytes("c", b"3")
    assert [each for each in transactional.take() if "Progress" not in each[1]] == both("Set", "c")


def test_a_nested_failure_undoes_its_part_alone():
    pair = Pair(INNER["new"]())
    with pair.wrapper.transaction():
        pair.wrapper.from_bytes("a", b"1")
        with pytest.raises(LookupError), pair.wrapper.transaction():  # noqa: PT012 - the block is what fails
            pair.wrapper.from_bytes("b", b"1")
            raise LookupError
        with pair.wrapper.transaction():
            pair.wrapper.from_bytes("c", b"1")
        assert pair.take() == []
    assert [each for each in pair.heard if each[0] == "wrapper"] == [
        ("wrapper", "Set", "a"),
        ("wrapper", "Set", "c"),
    ]
    assert sorted(pair.take()) == sorted(both("Set", "a") + both("Set", "c"))


def test_a_transaction_of_the_inner_store():
    pair = Pair(INNER["new"]())
    with pair.inner.transaction():
        pair.wrapper.from_bytes("a", b"1")
        pair.inner.from_bytes("b", b"1")
        with pair.wrapper.transaction():
            pair.wrapper.from_bytes("c", b"1")
        assert pair.take() == []
    for name, keys in (("inner", "abc"), ("wrapper", "ac")):
        assert [each for each in pair.heard if each[0] == name] == [
            (name, "Set", key) for key in keys
        ]
    pair.take()
    with pytest.raises(LookupError), pair.inner.transaction():  # noqa: PT012 - the block is what fails
        pair.wrapper.from_bytes("d", b"1")
        raise LookupError
    assert pair.take() == []


def test_an_inner_transaction_within_one_of_the_wrapper():
    pair = Pair(INNER["new"]())
    with pair.wrapper.transaction():
        with pair.inner.transaction():
            pair.wrapper.from_bytes("a", b"1")
            pair.inner.from_bytes("b", b"1")
        assert pair.take() == []
    assert sorted(pair.take()) == sorted([*both("Set", "a"), ("inner", "Set", "b")])


def test_transactions_two_deep():
    pair = Pair(INNER["new"](), StoreTransactionEvent)
    outer = WrapperStore(pair.wrapper, event_manager=EventManager())
    for kind in (StoreTransactionEvent, StoreModificationEvent):
        outer.event_manager.connect(kind, pair.hear("outer", outer))
    with outer.transaction():
        outer.from_bytes("a", b"1")
        pair.wrapper.from_bytes("b", b"1")
    assert [each[1:] for each in pair.heard if each[0] == "outer"] == [
        ("TransactionStart", None),
        ("TransactionEnd", "done"),
        ("Set", "a"),
    ]
    for name in ("inner", "wrapper"):
        assert [each[1:] for each in pair.heard if each[0] == name] == [
            ("TransactionStart", None),
            ("TransactionEnd", "done"),
        ]


def test_a_failed_commit_is_told_as_failed(monkeypatch):
    pair = Pair(INNER["new"](), StoreEvent)

    def refuse(overlay):
        raise StoreError("no")

    with monkeypatch.context() as patch:
        patch.setattr(pair.inner, "_apply", refuse)
        with pytest.raises(StoreError, match="no"), pair.wrapper.transaction():
            pair.wrapper.from_bytes("a", b"1")
    own = [each[1:] for each in pair.take() if each[0] == "wrapper" and "Progress" not in each[1]]
    assert own == [("TransactionStart", None), ("TransactionEnd", "failed")]
    pair.wrapper.from_bytes("a", b"1")
    assert ("wrapper", "Set", "a") in pair.heard


def test_bulk_is_one_transaction_that_is_told():
    pair = Pair(INNER["new"](), StoreTransactionEvent)
    pair.wrapper.multiset("ab", [StringValue(), StringValue()])
    assert sorted(pair.take(), key=str) == [
        ("inner", "TransactionEnd", "done"),
        ("inner", "TransactionStart", None),
        ("wrapper", "TransactionEnd", "done"),
        ("wrapper", "TransactionStart", None),
    ]
    with pytest.raises(KeyError):
        pair.wrapper.multiupdate_metadata(["a", "missing"], [{"x": 1}, {}])
    assert ("wrapper", "TransactionEnd", "failed") in pair.heard
    assert pair.wrapper.get_metadata("a") == {}


def test_a_store_without_transactions_gives_the_dummy():
    for inner in (OldStore(EventManager()), DirectoryStore(".", event_manager=EventManager())):
        wrapper = WrapperStore(inner, event_manager=EventManager())
        assert type(wrapper.transaction()) is DummyTransactionContext
    pair = Pair(OldStore(EventManager()))
    with pytest.raises(LookupError), pair.wrapper.transaction():  # noqa: PT012 - the block is what fails
        pair.wrapper.from_bytes("a", b"1")
        raise LookupError
    # It is there, so it is told.
    assert pair.take() == both("Set", "a")


def test_leaving_what_was_not_entered():
    pair = Pair(INNER["new"]())
    context = pair.wrapper.transaction("note")
    assert "note" in repr(context)
    with pytest.raises(StoreError, match="no transaction"):
        context.__exit__(None, None, None)


def test_other_threads_have_transactions_of_their_own():
    pair = Pair(INNER["new"]())
    seen = []

    def look():
        seen.append(pair.wrapper.exists("a"))

    with pair.wrapper.transaction():
        pair.wrapper.from_bytes("a", b"1")
        thread = threading.Thread(target=look)
        thread.start()
        thread.join(60)
        assert pair.wrapper.exists("a")
    assert seen == [False]


# Progress


@pytest.mark.parametrize("inner", list(INNER))
def test_progress_goes_to_the_manager_of_the_wrapper(inner, tmp_path):
    inner = INNER[inner]()
    wrapper = WrapperStore(inner, event_manager=EventManager())
    heard = []
    wrapper.event_manager.connect(StoreProgressEvent, heard.append)

    def steps():
        events = list(heard)
        heard.clear()
        assert isinstance(events[0], StoreProgressStartEvent)
        assert isinstance(events[-1], StoreProgressEndEvent)
        assert all(type(event) is StoreProgressStepEvent for event in events[1:-1])
        assert {event.source for event in events} == {wrapper}
        assert {event.key for event in events} == {"a"}
        assert events[-1].exit_state == "normal"
        return events[0].steps, [event.step for event in events[1:-1]]

    wrapper.set("a", (io.BytesIO(b"12345"), {"n": 1}), 2)
    assert steps() == (-1, [2, 4, 5])
    wrapper.set("a", StringValue(b"12345", {"n": 1}), 3)
    assert steps() == (5, [3, 5])
    wrapper.set_data("a", io.BytesIO(b"123"), 2)
    assert steps()[1] == [2, 3]
    wrapper.from_bytes("a", b"1234", 3)
    assert steps()[1] == [3, 4]
    wrapper.multiset(["a"], [(io.BytesIO(b"12"), {"n": 1})])
    assert steps()[1] == [2]
    assert wrapper.to_bytes("a", 1) == b"12"
    assert steps() == (2, [1, 2])
    wrapper.to_file("a", tmp_path / "x")
    assert steps() == (2, [2])
    wrapper.from_file("a", tmp_path / "x")
    assert steps()[1] == [2]
    wrapper.get_metadata("a")
    assert heard == []


def test_progress_ends_where_it_fails():
    wrapper = WrapperStore(INNER["new"](), event_manager=EventManager())
    heard = []
    wrapper.event_manager.connect(StoreProgressEvent, heard.append)

    class Failing(io.BytesIO):
        def read(self, size=-1):
            return super().read(size) or "text"

    for use in (
        lambda: wrapper.set("a", (Failing(b"x"), {})),
        lambda: wrapper.set_data("a", Failing(b"x")),
    ):
        with pytest.raises(TypeError, match="must give bytes"):
            use()
        assert [type(event) for event in heard] == [
            StoreProgressStartEvent,
            StoreProgressStepEvent,
            StoreProgressEndEvent,
        ]
        assert heard[-1].exit_state == "exception"
        heard.clear()
    assert not wrapper.exists("a")


def test_bad_arguments_cause_no_progress():
    wrapper = WrapperStore(INNER["new"](), event_manager=EventManager())
    heard = []
    wrapper.event_manager.connect(StoreEvent, heard.append)
    for use, error in (
        (lambda: wrapper.set(5, StringValue()), TypeError),
        (lambda: wrapper.set("", StringValue()), ValueError),
        (lambda: wrapper.set("a", b"x"), TypeError),
        (lambda: wrapper.set("a", StringValue(), 0), ValueError),
        (lambda: wrapper.set("a", (io.BytesIO(), {1: 2})), TypeError),
        (lambda: wrapper.set_data("a", b"x"), TypeError),
        (lambda: wrapper.set_data("a", io.BytesIO(), "1"), TypeError),
        (lambda: wrapper.set_data(None, io.BytesIO()), TypeError),
    ):
        with pytest.raises(error):
            use()
    assert heard == []


# Everything else


@pytest.fixture
def filled(pair):
    for key, data, metadata in (("a", b"aaa", {"n": 1}), ("b", b"bb", {"n": 2, "select": 1})):
        pair.inner.set(key, (io.BytesIO(data), metadata))
    return pair.wrapper


def test_reading_is_forwarded(filled, tmp_path):
    assert (
        filled.get("a").data.read() == filled.get_data("a").read() == filled.to_bytes("a") == b"aaa"
    )
    assert filled.get_data_range("a", -1).read() == b"a"
    assert filled.get_metadata("b", ["n"]) == {"n": 2}
    assert filled.exists("a")
    assert not filled.exists("c")
    assert [value.size for value in filled.multiget("ab")] == [3, 2]
    assert [data.read() for data in filled.multiget_data("ab")] == [b"aaa", b"bb"]
    assert list(filled.multiget_metadata("ab", ["n"])) == [{"n": 1}, {"n": 2}]
    assert sorted(filled.glob("[ab]")) == list(filled.keys()) == ["a", "b"]
    assert list(filled.keys("", "a", 5)) == ["b"]
    filled.to_file("a", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"aaa"
    with pytest.raises(KeyError):
        filled.get("c")


def test_queries_are_forwarded(filled):
    assert dict(filled.query(n=1)) == {"a": {"n": 1}}
    assert dict(filled.query(["n"])) == {"a": {"n": 1}, "b": {"n": 2}}
    assert list(filled.query_keys(n=2)) == ["b"]
    assert dict(filled.query(["n"], where={"select": 1})) == {"b": {"n": 2}}
    assert list(filled.query_keys(where={"select": 1.0}, n=2)) == ["b"]
    for query in (filled.query, filled.query_keys):
        assert list(query(where={"n": 1}, n=2)) == []
        with pytest.raises(TypeError):
            query(where=[])


def test_conditions_are_forwarded_where_they_are_known():
    wrapper = Pair(INNER["new"]()).wrapper
    wrapper.set("a", StringValue(b"1"), if_none_match="*")
    with pytest.raises(PreconditionError):
        wrapper.set("a", StringValue(), if_none_match="*")
    with pytest.raises(PreconditionError):
        wrapper.set_data("a", io.BytesIO(), if_match="stale")
    with pytest.raises(PreconditionError):
        wrapper.update_metadata("a", {}, if_match="stale")
    with pytest.raises(PreconditionError):
        wrapper.delete("a", if_match="stale")
    wrapper.set_metadata("a", {"n": 1}, if_match=wrapper.get("a").etag)
    wrapper.delete("a", if_match=wrapper.get("a").etag)


def test_conditions_are_refused_where_they_are_unknown():
    pair = Pair(OldStore(EventManager()))
    assert pair.wrapper.info()["conditional"] is False
    for use in (
        lambda: pair.wrapper.set("a", StringValue(), if_none_match="*"),
        lambda: pair.wrapper.set_data("a", io.BytesIO(), if_none_match="*"),
        lambda: pair.wrapper.set_metadata("a", {}, if_match="x"),
        lambda: pair.wrapper.update_metadata("a", {}, if_match="x"),
        lambda: pair.wrapper.delete("a", if_match="x"),
    ):
        with pytest.raises(NotImplementedError):
            use()
    assert pair.take() == []
    assert pair.inner.contents == {}


def test_a_change_that_leaves_no_trace_is_not_told():
    class Tolerant(OldStore):
        def delete(self, key):
            if key in self.contents:
                super().delete(key)

    pair = Pair(Tolerant(EventManager()))
    pair.wrapper.delete("missing")
    assert pair.take() == []


def test_a_store_that_can_only_be_read(tmp_path):
    (tmp_path / "x").write_bytes(b"data")
    inner = DirectoryStore(tmp_path, event_manager=EventManager())
    wrapper = WrapperStore(inner, event_manager=EventManager())
    heard = []
    with wrapper:
        assert wrapper.info()["readonly"] is True
        assert wrapper.info()["transactional"] is False
        assert wrapper.to_bytes("x") == b"data"
        # Also where somebody listens.
        for _ in range(2):
            for use in (
                lambda: wrapper.set("y", StringValue()),
                lambda: wrapper.set_data("y", io.BytesIO()),
                lambda: wrapper.set_metadata("x", {}),
                lambda: wrapper.update_metadata("x", {}),
                lambda: wrapper.delete("x"),
                lambda: wrapper.from_bytes("y", b""),
                lambda: wrapper.from_file("y", tmp_path / "x"),
                lambda: wrapper.multiset("y", [StringValue()]),
                lambda: wrapper.multiset_data("y", [io.BytesIO()]),
                lambda: wrapper.multiset_metadata("x", [{}]),
                lambda: wrapper.multiupdate_metadata("x", [{}]),
                lambda: wrapper.copy("x", "y"),
                lambda: wrapper.move("x", "y"),
            ):
                with pytest.raises(StoreError, match="can only be read"):
                    use()
            wrapper.event_manager.connect(StoreEvent, heard.append)
        with pytest.raises(StoreError) as caught:
            wrapper.delete("x")
        assert caught.value.key == "x"
        with wrapper.transaction():
            pass
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert not [event for event in heard if isinstance(event, StoreModificationEvent)]


class OldReadOnlyStore(AbstractReadOnlyStore):
    def info(self):
        return {}

    def get(self, key):
        raise KeyError(key)

    def query(self, select=None, **kwargs):
        return iter(())


def test_info_adds_what_an_old_store_leaves_out():
    wrapper = WrapperStore(OldReadOnlyStore(), event_manager=EventManager())
    assert wrapper.info() == {
        "type": "WrapperStore",
        "readonly": True,
        "authorizing": False,
        "transactional": False,
        "conditional": False,
        "streaming": False,
        "durable": "none",
    }
    assert WrapperStore(INNER["new"]()).info() == {**INNER["new"]().info(), "type": "WrapperStore"}


def test_permissions_are_not_promised():
    class Authorizing(OldReadOnlyStore):
        def info(self):
            return {"authorizing": True}

    assert WrapperStore(Authorizing()).info()["authorizing"] is False


@pytest.mark.parametrize("store", [None, "memory:", DictMemoryStore, {}, EventManager()])
def test_only_stores_are_wrapped(store):
    with pytest.raises(TypeError, match="wraps a store"):
        WrapperStore(store)


def test_the_manager_is_given_by_name():
    with pytest.raises(TypeError):
        WrapperStore(EventManager(), INNER["new"]())
    with pytest.raises(TypeError):
        WrapperStore(INNER["new"](), EventManager())
    assert WrapperStore(INNER["new"]()).event_manager is get_event_manager()


# Life cycle


def test_it_connects_and_disconnects_what_was_not_connected(pair):
    wrapper, inner = pair.wrapper, pair.inner
    assert not wrapper.is_connected()
    wrapper.connect()
    wrapper.connect()
    assert inner.is_connected()
    assert wrapper.is_connected()
    wrapper.disconnect()
    wrapper.disconnect()
    assert not inner.is_connected()
    with wrapper:
        assert inner.is_connected()
    assert not inner.is_connected()


def test_it_leaves_connected_what_was(pair):
    pair.inner.connect()
    with pair.wrapper:
        pass
    pair.wrapper.disconnect()
    assert pair.inner.is_connected()


def test_credentials_are_passed_on():
    class Asking(OldStore):
        def connect(self, credentials=None):
            super().connect()
            self.credentials = credentials

    inner = Asking(EventManager())
    WrapperStore(inner).connect({"user": "me"})
    assert inner.credentials == {"user": "me"}


def test_a_failed_connect_connects_nothing():
    class Broken(OldStore):
        def connect(self, credentials=None):
            raise StoreError("no")

    wrapper = WrapperStore(Broken(EventManager()))
    with pytest.raises(StoreError):
        wrapper.connect()
    assert not wrapper.is_connected()
    wrapper.disconnect()


@pytest.mark.parametrize(
    "twin_of", [lambda store: pickle.loads(pickle.dumps(store)), copy.deepcopy]
)
def test_a_wrapper_is_pickled_with_its_store(twin_of):
    pair = Pair(INNER["new"]())
    pair.wrapper.connect()
    pair.wrapper.from_bytes("a", b"1")
    twin = twin_of(pair.wrapper)
    assert twin.event_manager is get_event_manager()
    assert not twin.is_connected()
    with twin:
        assert twin.to_bytes("a") == b"1"
        with twin.transaction():
            twin.from_bytes("b", b"2")
    assert not pair.wrapper.exists("b")


def test_repr_shows_what_is_wrapped():
    inner = INNER["new"]()
    assert repr(WrapperStore(inner)) == f"WrapperStore({inner!r})"
    assert repr(WrapperStore(WrapperStore(inner))) == f"WrapperStore(WrapperStore({inner!r}))"
    assert {StoreTransactionStartEvent, StoreTransactionEndEvent} <= set(
        StoreTransactionEvent.__subclasses__()
    )


# What follows from what a subclass overrides


class Reversed(WrapperStore):
    """Data backwards; says no more than what it must."""

    def get(self, key):
        value = self.store.get(key)
        with value.data as stream:
            return StringValue(stream.read()[::-1], value.metadata)

    def set(self, key, value, buffer_size=1 << 20, **conditions):
        data, metadata = value if isinstance(value, tuple) else (value.data, value.metadata)
        super().set(key, (io.BytesIO(data.read()[::-1]), metadata), buffer_size, **conditions)


def test_what_follows_from_an_overridden_method_follows_it(tmp_path):
    inner = DictMemoryStore(event_manager=EventManager())
    store = Reversed(inner, event_manager=EventManager())
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    stream = io.BytesIO
    writes = {
        "set": lambda: store.set("k", (stream(b"abc"), {"n": 1})),
        "set_data": lambda: store.set_data("k", stream(b"abc")),
        "from_bytes": lambda: store.from_bytes("k", b"abc"),
        "from_file": lambda: store.from_file("k", path),
        "multiset": lambda: store.multiset(["k"], [(stream(b"abc"), {"n": 1})]),
        "multiset_data": lambda: store.multiset_data(["k"], [stream(b"abc")]),
        "copy": lambda: store.copy("abc", "k"),
        "move": lambda: store.move("abc", "k"),
    }
    for write in writes.values():
        inner.from_bytes("k", b"")
        inner.from_bytes("abc", b"cba")
        write()
        assert inner.to_bytes("k") == b"cba"
    store.set_metadata("k", {"n": 2})
    store.update_metadata("k", {"m": 3})
    assert inner.to_bytes("k") == b"cba"
    assert store.get_metadata("k") == {"n": 2, "m": 3}
    reads = {
        "get_data": lambda: store.get_data("k").read(),
        "get_data_range": lambda: store.get_data_range("k", 0, 3).read(),
        "to_bytes": lambda: store.to_bytes("k"),
        "to_file": lambda: store.to_file("k", path) or path.read_bytes(),
        "multiget": lambda: b"".join(value.data.read() for value in store.multiget(["k"])),
        "multiget_data": lambda: next(store.multiget_data(["k"])).read(),
        "mapping": lambda: store.mapping()["k"],
    }
    for read in reads.values():
        assert read() == b"abc"


def test_what_a_subclass_of_a_subclass_overrides_counts_too():
    class Loud(Reversed):
        def query(self, select=None, *, where=None, **kwargs):
            found = super().query(select, where=where, **kwargs)
            return ((key, metadata) for key, metadata in found if key != "hidden")

    store = Loud(DictMemoryStore(), event_manager=EventManager())
    store.multiset(["a", "hidden"], [(io.BytesIO(b""), {})] * 2)
    for found in (store.query_keys(), store.glob("*"), store.keys()):
        assert list(found) == ["a"]
    assert WrapperStore.glob is not Loud.glob
    assert Reversed.glob is WrapperStore.glob


@pytest.mark.parametrize("method", ["set", "set a value", "set_data", "multiset", "from_file"])
def test_who_begins_to_listen_while_data_are_read_hears_of_the_change(method):
    inner = DictMemoryStore(event_manager=EventManager())
    store = WrapperStore(WrapperStore(inner, event_manager=EventManager()))
    store.event_manager = EventManager()
    heard = []

    class Slow(io.BytesIO):
        def read(self, size=-1):
            store.event_manager.connect(StoreModificationEvent, heard.append)
            return super().read(size)

    class SlowValue(StringValue):
        @property
        def data(self):
            return Slow(b"data")

    def values():
        yield io.BytesIO(b"first"), {}
        yield Slow(b"data"), {}

    {
        "set": lambda: store.set("a", (Slow(b"data"), {})),
        "set a value": lambda: store.set("a", SlowValue(b"data")),
        "set_data": lambda: store.set_data("a", Slow(b"data")),
        "multiset": lambda: store.multiset(["b", "a"], values()),
        "from_file": lambda: store.from_file("a", Slow(b"data")),
    }[method]()
    assert store.to_bytes("a") == b"data"
    told = [(type(event), event.key, event.source) for event in heard]
    before = [(StoreSetEvent, "b", store)] if method == "multiset" else []
    assert told == [*before, (StoreSetEvent, "a", store)]
