"""encore.storage.utils: tools for those who write stores."""

from __future__ import annotations

import gc
import hashlib
import io
import threading
import weakref

import pytest

from encore.events.api import BaseEventManager, EventManager, ProgressManager, get_event_manager
from encore.storage import utils
from encore.storage._progress import progress, progress_wanted, store_progress
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.events import (
    StoreDeleteEvent,
    StoreEvent,
    StoreKeyEvent,
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressEvent,
    StoreProgressStartEvent,
    StoreProgressStepEvent,
    StoreSetEvent,
    StoreTransactionEndEvent,
    StoreTransactionStartEvent,
    StoreUpdateEvent,
)
from encore.storage.string_value import StringValue
from encore.storage.utils import (
    BufferIteratorIO,
    DummyTransactionContext,
    SimpleTransactionContext,
    StoreProgressManager,
    add_context_manager_support,
    buffer_iterator,
    hashing_file,
    tee,
)


class Store:
    """As much of a store as a transaction context needs."""

    def __init__(self, event_manager=None):
        self.event_manager = event_manager or EventManager()
        self.calls = []
        self.refuse = {}

    def _call(self, name):
        self.calls.append(name)
        if name in self.refuse:
            raise self.refuse[name]

    def _begin_transaction(self):
        self._call("begin")

    def _commit_transaction(self):
        self._call("commit")

    def _rollback_transaction(self):
        self._call("rollback")

    def change(self, key, kind=StoreSetEvent):
        self.event_manager.emit(kind(self, key=key, metadata={}))


def recorded(store, kind=StoreEvent):
    events = []
    store.event_manager.connect(kind, events.append)
    return events


def described(events):
    return [
        getattr(event, "key", None) or (type(event).__name__, vars(event).get("state"))
        for event in events
    ]


START, DONE, FAILED = (
    ("StoreTransactionStartEvent", None),
    ("StoreTransactionEndEvent", "done"),
    ("StoreTransactionEndEvent", "failed"),
)


def test_the_module_offers_what_it_says():
    for name in utils.__all__:
        assert getattr(utils, name).__name__ == name


# Transactions


@pytest.mark.parametrize("kind", [DummyTransactionContext, SimpleTransactionContext])
def test_there_is_one_live_context_for_each_store(kind):
    one, other = Store(), Store()
    context = kind(one)
    assert kind(one) is context
    assert kind(other) is not context
    assert context.store is one
    assert kind.__name__ in repr(context)
    gone = weakref.ref(context)
    del context
    gc.collect()
    assert gone() is None


def test_contexts_of_different_classes_are_different():
    class Other(SimpleTransactionContext):
        pass

    store = Store()
    contexts = [kind(store) for kind in (DummyTransactionContext, SimpleTransactionContext, Other)]
    assert [type(context) for context in contexts] == [
        DummyTransactionContext,
        SimpleTransactionContext,
        Other,
    ]


def test_a_context_keeps_no_store_alive():
    store = Store()
    with SimpleTransactionContext(store):
        pass
    gone = weakref.ref(store)
    del store
    gc.collect()
    assert gone() is None


def test_threads_that_ask_at_once_get_the_same_context():
    for _ in range(20):
        store, contexts, barrier = Store(), [], threading.Barrier(4)

        def ask(store=store, contexts=contexts, barrier=barrier):
            barrier.wait(30)
            contexts.append(SimpleTransactionContext(store))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(contexts) == 4
        assert len(set(map(id, contexts))) == 1


def test_a_subclass_may_have_a_constructor():
    class Named(SimpleTransactionContext):
        def __init__(self, store):
            super().__init__(store)
            self.name = "mine"

    store = Store()
    with Named(store) as context, Named(store) as inner:
        assert inner is context
        assert context.name == "mine"
    assert store.calls == ["begin", "commit"]


def test_a_dummy_does_nothing():
    store = Store()
    events = recorded(store)
    with DummyTransactionContext(store) as context:
        assert isinstance(context, DummyTransactionContext)
        store.change("a")
    with pytest.raises(LookupError), DummyTransactionContext(store):
        raise LookupError
    assert store.calls == []
    assert described(events) == ["a"]


def test_a_transaction_that_ends_well_is_committed():
    store = Store()
    events = recorded(store)
    with SimpleTransactionContext(store) as context:
        assert isinstance(context, SimpleTransactionContext)
        store.change("a")
        store.change("b", StoreUpdateEvent)
        store.change("c", StoreDeleteEvent)
        assert described(events) == [START]
    assert store.calls == ["begin", "commit"]
    assert described(events) == [START, DONE, "a", "b", "c"]
    assert [event.source for event in events] == [store] * 5


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt, GeneratorExit])
def test_a_transaction_that_fails_is_rolled_back(error):
    store = Store()
    events = recorded(store)
    with pytest.raises(error), SimpleTransactionContext(store):  # noqa: PT012 - the block is what fails
        store.change("a")
        raise error
    assert store.calls == ["begin", "rollback"]
    assert described(events) == [START, FAILED]
    store.change("b")
    assert described(events)[2:] == ["b"]


def test_only_the_outermost_of_nested_transactions_counts():
    store = Store()
    events = recorded(store)
    with SimpleTransactionContext(store):
        store.change("a")
        with pytest.raises(LookupError), SimpleTransactionContext(store):  # noqa: PT012 - the block is what fails
            store.change("b")
            raise LookupError
        with SimpleTransactionContext(store):
            store.change("c")
        assert described(events) == [START]
        assert store.calls == ["begin"]
    assert store.calls == ["begin", "commit"]
    assert described(events) == [START, DONE, "a", "b", "c"]


def test_a_context_can_be_used_again():
    store = Store()
    context = SimpleTransactionContext(store)
    for key in ("a", "b"):
        events = recorded(store)
        with context:
            store.change(key)
        assert described(events) == [START, DONE, key]
    assert store.calls == ["begin", "commit"] * 2


def test_a_begin_that_fails_leaves_nothing():
    store = Store()
    events = recorded(store)
    store.refuse["begin"] = LookupError()
    with pytest.raises(LookupError), SimpleTransactionContext(store):
        pytest.fail("it did not begin")
    assert events == []
    store.change("a")
    assert described(events) == ["a"]
    store.refuse.clear()
    with SimpleTransactionContext(store):
        pass
    assert store.calls == ["begin", "begin", "commit"]


def test_a_commit_that_fails_is_rolled_back_and_raised():
    store = Store()
    events = recorded(store)
    store.refuse["commit"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt), SimpleTransactionContext(store):
        store.change("a")
    assert store.calls == ["begin", "commit", "rollback"]
    assert described(events) == [START, FAILED]


def test_a_rollback_that_fails_leaves_a_usable_context():
    store = Store()
    store.refuse["rollback"] = LookupError()
    events = recorded(store)
    with pytest.raises(LookupError), SimpleTransactionContext(store):
        raise ValueError
    assert described(events) == [START, FAILED]
    with SimpleTransactionContext(store):
        pass
    assert described(events)[2:] == [START, DONE]


def test_the_manager_may_be_another_one_at_the_end():
    store = Store()
    first = store.event_manager
    events = recorded(store)
    with SimpleTransactionContext(store):
        store.change("a")
        store.event_manager = EventManager()
    assert described(events) == [START, DONE, "a"]
    first.emit(StoreSetEvent(store, key="b"))
    assert described(events)[3:] == ["b"]


def test_a_listener_that_interrupts_the_start_rolls_back():
    store = Store()

    def interrupt(event):
        raise KeyboardInterrupt

    store.event_manager.connect(StoreTransactionStartEvent, interrupt)
    events = recorded(store)
    with pytest.raises(KeyboardInterrupt), SimpleTransactionContext(store):
        pytest.fail("it did not begin")
    assert store.calls == ["begin", "rollback"]
    assert described(events) == [FAILED]
    store.event_manager.disconnect(StoreTransactionStartEvent, interrupt)
    with SimpleTransactionContext(store):
        store.change("a")
    assert described(events) == [FAILED, START, DONE, "a"]


def test_a_vetoed_connection_does_no_harm():
    store = Store()
    store.event_manager.set_trace(lambda name, method, args: name == "connect")
    with SimpleTransactionContext(store):
        pass
    assert store.calls == ["begin", "commit"]


def test_events_of_other_stores_are_not_held_back():
    store, other = Store(), Store()
    other.event_manager = store.event_manager
    events = recorded(store, StoreModificationEvent)
    with SimpleTransactionContext(store):
        store.change("mine")
        other.change("other")
        assert described(events) == ["other"]
    assert described(events) == ["other", "mine"]


def test_a_store_need_not_define_what_is_called():
    class Bare:
        event_manager = EventManager()

    with SimpleTransactionContext(Bare()) as context:
        context.begin()
    with pytest.raises(LookupError), SimpleTransactionContext(Bare()):
        raise LookupError


def test_subclasses_override_begin_commit_and_rollback():
    calls = []

    class Mine(SimpleTransactionContext):
        def begin(self):
            calls.append("begin")

        def commit(self):
            calls.append("commit")

        def rollback(self):
            calls.append("rollback")

    store = Store()
    with Mine(store):
        pass
    with pytest.raises(LookupError), Mine(store):
        raise LookupError
    assert calls == ["begin", "commit", "begin", "rollback"]
    assert store.calls == []


# Progress


def test_a_store_progress_manager_emits_store_progress_events():
    manager = EventManager()
    events = []
    manager.connect(StoreProgressEvent, events.append)
    with StoreProgressManager(
        manager, "store", None, "Working", 5, key="k", metadata={"a": 1}
    ) as progress:
        progress(step=2)
        progress("more", 5)
    assert issubclass(StoreProgressManager, ProgressManager)
    assert [type(event) for event in events] == [
        StoreProgressStartEvent,
        StoreProgressStepEvent,
        StoreProgressStepEvent,
        StoreProgressEndEvent,
    ]
    assert {event.source for event in events} == {"store"}
    assert [event.key for event in events] == ["k"] * 4
    assert [event.metadata for event in events] == [{"a": 1}] * 4
    assert len({event.operation_id for event in events}) == 1
    assert events[0].steps == 5
    assert [event.step for event in events[1:3]] == [2, 5]
    assert [event.message for event in events] == ["Working", "Working", "more", "Working"]
    assert events[3].exit_state == "normal"
    assert isinstance(events[0], StoreKeyEvent)


def test_a_failure_ends_with_its_exit_state():
    manager = EventManager()
    events = []
    manager.connect(StoreProgressEndEvent, events.append)
    with pytest.raises(KeyboardInterrupt), StoreProgressManager(manager):
        raise KeyboardInterrupt
    assert [event.exit_state for event in events] == ["exception"]


def test_the_manager_of_the_process_is_the_default():
    assert StoreProgressManager().event_manager is get_event_manager()


class Unlooked(StringValue):
    @property
    def size(self):
        raise AssertionError("it costs to ask for the size")

    @size.setter
    def size(self, size):
        pass


def test_nothing_is_asked_where_nobody_listens():
    store = Store()
    assert not progress_wanted(store.event_manager)

    def metadata():
        raise AssertionError("nobody wants to see them")

    with progress(store, "Writing", "k", metadata, 5) as step:
        assert step is None
    with store_progress(store, "Reading", "k", Unlooked(b"x")) as step:
        assert step is None


@pytest.mark.parametrize(
    "kind", [StoreProgressEvent, StoreProgressStepEvent, StoreProgressEndEvent, StoreEvent]
)
def test_whoever_listens_to_a_part_sees_that_part(kind):
    store = Store()
    events = recorded(store, kind)
    assert progress_wanted(store.event_manager)
    with store_progress(store, "Reading", "k", StringValue(b"abc", {"a": 1})) as step:
        step(step=3)
    assert events
    assert {event.source for event in events} == {store}
    assert {event.message for event in events} == {"Reading k"}
    assert {event.unit for event in events} == {"B"}
    assert events[-1].metadata == {"a": 1}
    with progress(store, "Copying", None, dict, None) as step:
        step(step=1)
    assert events[-1].message == "Copying"


def test_a_manager_of_another_kind_is_always_told():
    class Foreign:
        def __init__(self):
            self.events = []

        def emit(self, event, block=True):
            self.events.append(event)

    assert progress_wanted(Foreign())

    class Own(BaseEventManager):
        connect = disconnect = disable = enable = is_enabled = emit = lambda self, *args: None

    assert progress_wanted(Own())


# Streams


def test_tee_gives_streams_that_are_read_independently():
    source = io.BytesIO(b"0123456789")
    streams = tee(source, 3, 4)
    assert len(streams) == 3
    assert all(type(stream) is BufferIteratorIO for stream in streams)
    assert streams[0].read(3) == b"012"
    assert source.tell() == 4
    assert streams[1].read(-1) == b"0123456789"
    assert streams[0].read(-1) == b"3456789"
    streams[0].close()
    assert streams[2].read(-1) == b"0123456789"
    assert not source.closed


def test_tee_into_none_and_two():
    assert tee(io.BytesIO(b"abc"), 0) == ()
    assert [stream.read() for stream in tee(io.BytesIO(b"abc"))] == [b"abc", b"abc"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((io.BytesIO(), -1), ValueError),
        ((io.BytesIO(), "2"), TypeError),
        ((io.BytesIO(), 2, 0), ValueError),
        ((io.BytesIO(), 2, None), TypeError),
        ((b"bytes",), TypeError),
        ((None,), TypeError),
    ],
)
def test_wrong_arguments_of_tee(arguments, error):
    with pytest.raises(error):
        tee(*arguments)


def test_hashing_file():
    class Short:
        def __init__(self):
            self.data = [b"ab", bytearray(b"c"), b""]

        def read(self, size=-1):
            return self.data.pop(0)

    file = hashing_file(Short(), hashlib.sha256())
    assert file.read(10) == b"ab"
    assert file.len == 2
    assert file.read() == b"c"
    assert file.read() == b""
    assert file.len == 3
    assert file.hash.hexdigest() == hashlib.sha256(b"abc").hexdigest()
    assert repr(file) == "<hashing_file sha256 of 3 bytes>"
    with file:
        pass  # there is nothing to close

    below = io.BytesIO(b"abcdef")
    with hashing_file(below, hashlib.md5(usedforsecurity=False)) as file:
        assert file.read(2) == b"ab"
        assert b"".join(buffer_iterator(file, 3)) == b"cdef"
        assert file.len == 6
    assert below.closed


def test_a_hashing_file_can_be_stored():
    store = DictMemoryStore(event_manager=EventManager())
    file = hashing_file(io.BytesIO(b"abc" * 1000), hashlib.sha1(usedforsecurity=False))
    store.set_data("k", file, 7)
    assert store.to_bytes("k") == b"abc" * 1000
    assert file.len == 3000
    assert file.hash.digest() == hashlib.sha1(b"abc" * 1000, usedforsecurity=False).digest()


def test_a_hashing_file_of_text_is_a_type_error():
    with pytest.raises(TypeError):
        hashing_file(io.StringIO("text"), hashlib.sha256()).read(2)


class Plain:
    closed = 0

    def close(self):
        self.closed += 1
        return True


class Slotted:
    __slots__ = ("closed",)

    def __init__(self):
        self.closed = 0

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("kind", [Plain, Slotted])
def test_context_manager_support_closes_the_object(kind):
    file = kind()
    assert add_context_manager_support(file) is file
    with file as entered:
        assert entered is file
    assert file.closed == 1
    assert isinstance(file, kind)
    assert type(file).__name__ == kind.__name__
    assert type(file).__module__ == kind.__module__
    assert add_context_manager_support(file) is file
    with file:
        pass
    assert file.closed == 2
    assert not hasattr(kind, "__enter__")


def test_what_close_returns_swallows_no_exception():
    file = add_context_manager_support(Plain())
    with pytest.raises(LookupError), file:
        raise LookupError
    assert file.closed == 1


def test_half_a_context_manager_is_completed():
    class Half(Plain):
        def __enter__(self):
            raise AssertionError("it has no __exit__")

    with add_context_manager_support(Half()) as file:
        pass
    assert file.closed == 1


def test_a_context_manager_is_left_as_it_is():
    stream = io.BytesIO()
    assert add_context_manager_support(stream) is stream
    assert type(stream) is io.BytesIO


def test_what_cannot_be_changed_is_a_type_error():
    with pytest.raises(TypeError):
        add_context_manager_support(object())


def test_transaction_events_carry_what_they_promise():
    store = Store()
    events = recorded(store)
    with SimpleTransactionContext(store):
        pass
    assert type(events[0]) is StoreTransactionStartEvent
    assert type(events[1]) is StoreTransactionEndEvent
    assert events[1].state == "done"
