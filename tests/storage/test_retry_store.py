"""RetryStore: what fails for a while only is tried again."""

from __future__ import annotations

import errno
import inspect
import io
import logging
import pickle
import sys
import threading
import time
import unittest

import pytest
from store_kits import DictKit, FileSystemKit, LockingFileSystemKit, SqliteKit, Wrapped

from encore.events.event_manager import EventManager
from encore.storage.abstract_store import AbstractStore
from encore.storage.checked_store import CheckedStore
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.errors import (
    IntegrityError,
    PreconditionError,
    StoreError,
    StoreOSError,
    TemporaryError,
)
from encore.storage.events import (
    StoreModificationEvent,
    StoreProgressEndEvent,
    StoreProgressStartEvent,
)
from encore.storage.joined_store import JoinedStore
from encore.storage.prefix_store import PrefixStore
from encore.storage.retry_policy import RetryPolicy, is_temporary
from encore.storage.retry_store import RetryStore
from encore.storage.string_value import StringValue
from encore.storage.value import Value
from encore.storage.wrapper_store import WrapperStore
from encore.testing.model import check_store, random_steps, same, transcript


class Retry(Wrapped):
    kills = 1

    def wrap(self, store, event_manager=None):
        return RetryStore(store, event_manager=event_manager)


class TestRetryStoreOverDictMemoryStore(Retry, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestRetryStoreOverSqliteStore(Retry, SqliteKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestRetryStoreOverFileSystemStore(Retry, FileSystemKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestRetryStoreOverLockingFileSystemStore(Retry, LockingFileSystemKit, unittest.TestCase):
    pass


class Deep(Wrapped):
    """Three wrappers deep."""

    kills = 1

    def wrap(self, store, event_manager=None):
        prefixed = PrefixStore(store, "p/", event_manager=EventManager())
        inner = CheckedStore(prefixed, event_manager=EventManager())
        return RetryStore(inner, event_manager=event_manager)

    def make_handle(self, store):
        inner = super(Wrapped, self).make_handle(store)
        return None if inner is None else self.wrap(inner)

    def failing_commit(self, store):
        return super(Wrapped, self).failing_commit(store.store.store.store)


@pytest.mark.slow
class TestRetryStoreOverTwoWrappersInMemory(Deep, DictKit, unittest.TestCase):
    pass


@pytest.mark.slow
class TestRetryStoreOverTwoWrappersOverSqliteStore(Deep, SqliteKit, unittest.TestCase):
    pass


# A store that fails, and a clock that is asked to wait.


class FakeTime:
    def __init__(self):
        self.now = 1000.0
        self.slept = []
        self.while_asleep = lambda: None

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        self.while_asleep()

    def policy(self, *args, **kwargs):
        kwargs.setdefault("jitter", 0)
        return RetryPolicy(*args, sleep=self.sleep, clock=self.clock, **kwargs)


def timed_out(**facts):
    return TemporaryError("timed out", **facts)


class FlakyStream(io.RawIOBase):
    def __init__(self, flaky, stream):
        self._flaky = flaky
        self._stream = stream

    def readable(self):
        return True

    def seekable(self):
        return self._flaky.seekable

    def seek(self, offset, whence=0):
        if not self.seekable():
            raise io.UnsupportedOperation("seek")
        return self._stream.seek(offset, whence)

    def tell(self):
        return self._stream.tell()

    def readinto(self, buffer):
        flaky = self._flaky
        if flaky.breaks and flaky.given >= flaky.breaks[0]:
            flaky.breaks.pop(0)
            raise timed_out()
        # As a connection gives it: some at a time.
        data = self._stream.read(min(len(buffer), flaky.piece))
        flaky.given += len(data)
        buffer[: len(data)] = data
        return len(data)


class FlakyValue(Value):
    def __init__(self, flaky, value):
        self._flaky = flaky
        self._value = value
        self.created, self.modified = value.created, value.modified
        self.size = value.size if flaky.sized else None
        self.etag = value.etag if flaky.tagged else None

    @property
    def metadata(self):
        return self._value.metadata

    @property
    def data(self):
        self._flaky.fail("data")
        return FlakyStream(self._flaky, self._value.data)

    def range(self, start=None, end=None):
        self._flaky.fail("range")
        return FlakyStream(self._flaky, self._value.range(start, end))


class Flaky(WrapperStore):
    """Raises what it was told to, before or after it did what it was asked for."""

    def __init__(self, store):
        super().__init__(store, event_manager=EventManager())
        self.script = []
        self.calls = []
        # Streams break when so many bytes have been given in all.
        self.breaks = []
        self.given = 0
        self.piece = 10
        self.seekable = False
        self.sized = True
        self.tagged = True

    def fail(self, method, when="before"):
        if when == "before":
            self.calls.append(method)
        if self.script and self.script[0][:2] == (method, when):
            error = self.script.pop(0)[2]
            raise error

    def _call(self, changing, store, method, /, *args, **kwargs):
        self.fail(method)
        if self.script and self.script[0][:2] == (method, "after"):
            # Nobody hears of what was done.
            getattr(store, method)(*args, **kwargs)
            self.fail(method, "after")
        super()._call(changing, store, method, *args, **kwargs)
        self.fail(method, "told")

    def get(self, key):
        self.fail("get")
        return FlakyValue(self, self.store.get(key))

    def get_metadata(self, key, select=None):
        self.fail("get_metadata")
        return self.store.get_metadata(key, select)

    def exists(self, key):
        self.fail("exists")
        return self.store.exists(key)

    def iterate(self, method, items):
        self.fail(method)

        def walk():
            for item in items:
                self.fail(f"next {method}")
                yield item

        return walk()

    def query(self, select=None, *, where=None, **kwargs):
        return self.iterate("query", self.store.query(select, where=where, **kwargs))

    def query_keys(self, *, where=None, **kwargs):
        return self.iterate("query_keys", self.store.query_keys(where=where, **kwargs))

    def glob(self, pattern):
        return self.iterate("glob", self.store.glob(pattern))

    def keys(self, prefix="", start_after=None, limit=None):
        return self.iterate("keys", self.store.keys(prefix, start_after, limit))

    def connect(self, credentials=None):
        self.fail("connect")
        super().connect(credentials)

    def _context(self, notes):
        self.fail("begin")
        return super()._context(notes)

    def transaction(self, notes=""):
        if self.script and self.script[0][0] == "begin":
            return WrapperStore.transaction(self, notes)
        return super().transaction(notes)


class Untransactional(Flaky):
    def transaction(self, notes=""):
        return super(WrapperStore, self).transaction(notes)

    def info(self):
        return {**super().info(), "transactional": False}


class Setting:
    def __init__(self, kind=Untransactional, **policy):
        self.time = FakeTime()
        self.memory = DictMemoryStore(event_manager=EventManager())
        self.flaky = kind(self.memory)
        self.manager = EventManager()
        self.store = RetryStore(self.flaky, self.time.policy(**policy), event_manager=self.manager)
        self.told = []
        self.manager.connect(StoreModificationEvent, self.hear)

    def hear(self, event):
        assert event.source is self.store
        self.told.append((type(event).__name__[5:-5], event.key, event.metadata))

    def fails(self, method, *errors, when="before"):
        self.flaky.script = [(method, when, error) for error in errors]
        self.flaky.calls.clear()
        self.time.slept.clear()


@pytest.fixture
def setting():
    return Setting()


def retried(event_manager):
    inner = DictMemoryStore(event_manager=EventManager())
    return RetryStore(inner, event_manager=event_manager)


@pytest.mark.parametrize("seed", range(3))
def test_it_does_what_the_model_does(seed):
    check_store(retried, seed, 150)


@pytest.mark.parametrize("seed", range(300, 303))
def test_it_does_what_a_plain_store_does(seed):
    steps = random_steps(seed, 150)
    plain = transcript(lambda manager: DictMemoryStore(event_manager=manager), steps)
    assert same(transcript(retried, steps), plain)


@pytest.mark.parametrize("seed", range(400, 403))
def test_failures_that_pass_do_not_show(seed):
    """Every second call that changes something fails at first."""

    class Every(WrapperStore):
        count = 0

        def _call(self, changing, store, method, /, *args, **kwargs):
            self.count += 1
            if self.count % 2:
                raise timed_out(happened=False)
            super()._call(changing, store, method, *args, **kwargs)

    def make(event_manager):
        inner = Every(DictMemoryStore(event_manager=EventManager()), event_manager=EventManager())
        return RetryStore(inner, FakeTime().policy(), event_manager=event_manager)

    steps = random_steps(seed, 150, transactions=False)
    # Inside the transaction of one of these nothing is tried again.
    steps = [step for step in steps if not step[0].startswith(("multi", "move"))]
    assert len(steps) > 80
    plain = transcript(lambda manager: DictMemoryStore(event_manager=manager), steps)
    assert same(transcript(make, steps), plain)


# What is temporary


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TemporaryError("x"), True),
        (StoreOSError(errno.ETIMEDOUT, "x"), True),
        (StoreOSError(errno.EAGAIN, "x"), True),
        (StoreOSError(errno.EBUSY, "x"), True),
        (StoreOSError(errno.ECONNRESET, "x"), True),
        (StoreOSError(errno.ENETUNREACH, "x"), True),
        (StoreOSError(errno.ENOSPC, "x"), False),
        (StoreOSError(errno.EACCES, "x"), False),
        (StoreOSError(errno.EIO, "x"), False),
        (StoreOSError("x"), False),
        (StoreError("x"), False),
        (PreconditionError("x"), False),
        (IntegrityError("x"), False),
        (KeyError("x"), False),
        (ConnectionResetError(errno.ECONNRESET, "x"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_what_is_temporary(error, expected):
    assert is_temporary(error) is expected


def test_what_is_not_temporary_is_not_tried_again(setting):
    for error in (StoreError("no"), KeyError("a"), StoreOSError(errno.ENOSPC, "full")):
        setting.fails("get_metadata", error)
        with pytest.raises(type(error)):
            setting.store.get_metadata("a")
        assert setting.time.slept == []
        assert not hasattr(error, "attempts")


def test_what_is_temporary_may_be_said_by_the_policy():
    setting = Setting(is_temporary=lambda error: "busy" in str(error))
    setting.memory.from_bytes("a", b"1")
    setting.fails("exists", StoreError("busy"), ConnectionError("busy"))
    assert setting.store.exists("a")
    setting.fails("exists", timed_out())
    with pytest.raises(TemporaryError):
        setting.store.exists("a")


# The policy


def test_the_span_grows_up_to_a_limit():
    policy = RetryPolicy(9, 0.1, 2, max_delay=1.0, jitter=0)
    assert [policy.delay(n) for n in range(1, 7)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert policy.delay(10**6) == 1.0


def test_the_wait_is_a_random_part_of_the_span():
    for chance, jitter, expected in (
        (0.0, 1, 0.4),
        (0.75, 1, 0.1),
        (0.5, 0.5, 0.3),
        (0.9, 0, 0.4),
    ):
        policy = RetryPolicy(jitter=jitter, random=lambda chance=chance: chance)
        assert policy.delay(3) == pytest.approx(expected)
    waits = {RetryPolicy().delay(3) for _ in range(20)}
    assert len(waits) > 15
    assert all(0 < wait <= 0.4 for wait in waits)


def test_the_default_is_two_more_attempts():
    policy = RetryPolicy()
    assert (policy.attempts, policy.first_delay, policy.factor) == (3, 0.1, 2.0)
    assert (policy.sleep, policy.clock, policy.is_temporary) == (
        time.sleep,
        time.monotonic,
        is_temporary,
    )
    assert repr(policy) == ("RetryPolicy(3, 0.1, 2.0, max_delay=10.0, jitter=1.0, deadline=30.0)")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": 2.0}, TypeError),
        ({"attempts": True}, TypeError),
        ({"first_delay": -1}, ValueError),
        ({"first_delay": "1"}, TypeError),
        ({"factor": 0.5}, ValueError),
        ({"max_delay": float("nan")}, ValueError),
        ({"max_delay": None}, TypeError),
        ({"jitter": 1.1}, ValueError),
        ({"jitter": -0.1}, ValueError),
        ({"deadline": -1}, ValueError),
        ({"deadline": "x"}, TypeError),
    ],
    ids=repr,
)
def test_a_bad_policy_is_refused(bad, error):
    with pytest.raises(error, match=next(iter(bad))):
        RetryPolicy(**bad)


def test_a_policy_is_a_policy():
    with pytest.raises(TypeError, match="a policy is a RetryPolicy"):
        RetryStore(DictMemoryStore(), 3)
    assert RetryStore(DictMemoryStore()).policy.attempts == 3


def test_the_last_error_is_raised_when_the_attempts_are_used_up(setting):
    errors = [timed_out() for _ in range(3)]
    setting.fails("exists", *errors)
    with pytest.raises(TemporaryError) as caught:
        setting.store.exists("a")
    assert caught.value is errors[-1]
    assert caught.value.attempts == 3
    if sys.version_info >= (3, 11):
        assert caught.value.__notes__ == ["It has been tried 3 times."]
    assert setting.time.slept == [0.1, 0.2]


def test_one_attempt_is_one():
    setting = Setting(attempts=1)
    setting.fails("exists", timed_out())
    with pytest.raises(TemporaryError) as caught:
        setting.store.exists("a")
    assert (caught.value.attempts, setting.time.slept) == (1, [])


def test_retry_after_is_respected(setting):
    setting.memory.from_bytes("a", b"1")
    setting.fails("exists", timed_out(retry_after=5), timed_out(retry_after=0.01))
    assert setting.store.exists("a")
    assert setting.time.slept == [5, 0.2]


def test_nobody_waits_beyond_the_deadline():
    setting = Setting(deadline=4)
    setting.fails("exists", timed_out(retry_after=3600))
    with pytest.raises(TemporaryError) as caught:
        setting.store.exists("a")
    assert caught.value.attempts == 1
    assert setting.time.slept == []


def test_no_attempt_starts_after_the_deadline():
    setting = Setting(attempts=100, first_delay=1, deadline=4)
    setting.fails("exists", *(timed_out() for _ in range(100)))
    with pytest.raises(TemporaryError) as caught:
        setting.store.exists("a")
    # After 0, 1 and 3 seconds; the next would be after 7.
    assert setting.time.slept == [1, 2]
    assert caught.value.attempts == 3
    # The attempts take their time too, and so may waking up.
    setting.fails("exists", *(timed_out() for _ in range(100)))
    setting.time.while_asleep = lambda: setattr(setting.time, "now", setting.time.now + 10)
    with pytest.raises(TemporaryError) as caught:
        setting.store.exists("a")
    assert (setting.time.slept, caught.value.attempts) == ([1], 1)


def test_without_a_deadline_there_is_none():
    setting = Setting(attempts=3, first_delay=10**6, max_delay=10**7, deadline=None)
    setting.memory.from_bytes("a", b"1")
    setting.fails("exists", timed_out(), timed_out())
    assert setting.store.exists("a")


def test_waiting_is_logged(setting, caplog):
    setting.memory.from_bytes("a", b"1")
    setting.fails("exists", timed_out())
    with caplog.at_level(logging.INFO):
        setting.store.exists("a")
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "attempt 1 of 3 failed, the next one is in 0.100 s: timed out" in record.getMessage()


def test_no_lock_is_held_while_it_waits(setting):
    setting.memory.from_bytes("a", b"1")

    def write():
        thread = threading.Thread(target=setting.store.from_bytes, args=("b", b"meanwhile"))
        thread.start()
        thread.join(20)
        assert not thread.is_alive()

    setting.fails("set_data", timed_out())
    setting.time.while_asleep = write
    setting.store.from_bytes("a", b"2")
    assert setting.store.to_bytes("b") == b"meanwhile"


def test_a_policy_is_pickled_with_its_store():
    store = RetryStore(DictMemoryStore(), RetryPolicy(7, deadline=None))
    store.from_bytes("a", b"1")
    twin = pickle.loads(pickle.dumps(store))
    assert (twin.policy.attempts, twin.policy.deadline) == (7, None)
    assert twin.to_bytes("a") == b"1"
    error = pickle.loads(pickle.dumps(timed_out(key="a", retry_after=2.5, happened=False)))
    assert (str(error), error.key, error.retry_after, error.happened) == (
        "timed out",
        "a",
        2.5,
        False,
    )


def test_connecting_is_tried_again(setting):
    setting.flaky.is_connected = lambda: False
    setting.fails("connect", timed_out(), timed_out())
    setting.store.connect()
    assert setting.flaky.calls == ["connect"] * 3


# Reading

DATA = bytes(range(100))


@pytest.mark.parametrize(
    ("method", "use", "expected"),
    [
        ("get", lambda store: store.get("a").size, 100),
        ("get", lambda store: store.to_bytes("a"), DATA),
        ("get", lambda store: store.get_data("a").read(), DATA),
        ("data", lambda store: store.get_data("a").read(), DATA),
        ("range", lambda store: store.get_data_range("a", 5, 7).read(), DATA[5:7]),
        ("get_metadata", lambda store: store.get_metadata("a"), {"n": 1}),
        ("get_metadata", lambda store: store.get_metadata("a", iter("n")), {"n": 1}),
        ("exists", lambda store: store.exists("a"), True),
        ("get", lambda store: next(store.multiget("a")).size, 100),
        ("get", lambda store: next(store.multiget_data("a")).read(), DATA),
        ("get_metadata", lambda store: next(store.multiget_metadata("a")), {"n": 1}),
        ("get", lambda store: store.mapping()["a"], DATA),
        ("query", lambda store: list(store.query(n=1)), [("a", {"n": 1})]),
        ("query", lambda store: list(store.query(iter("n"))), [("a", {"n": 1})]),
        ("query_keys", lambda store: list(store.query_keys(n=1)), ["a"]),
        ("query_keys", lambda store: list(store.query_keys(select=iter("n"))), ["a"]),
        ("glob", lambda store: list(store.glob("?")), ["a"]),
        ("keys", lambda store: list(store.keys()), ["a"]),
    ],
)
def test_whatever_reads_is_tried_again(setting, method, use, expected):
    setting.memory.set("a", (io.BytesIO(DATA), {"n": 1}))
    setting.fails(method, timed_out(), StoreOSError(errno.ECONNRESET, "reset"))
    assert use(setting.store) == expected
    assert setting.flaky.script == []
    assert setting.time.slept == [0.1, 0.2]
    setting.fails(method, *(timed_out(happened=None) for _ in range(3)))
    with pytest.raises(TemporaryError):
        use(setting.store)


def test_a_missing_key_is_missing_at_once(setting):
    for use in (setting.store.get, setting.store.to_bytes, setting.store.get_metadata):
        with pytest.raises(KeyError):
            use("a")
    assert setting.time.slept == []


@pytest.mark.parametrize("seekable", [False, True])
@pytest.mark.parametrize("sized", [False, True])
def test_a_stream_goes_on_where_it_broke_off(setting, seekable, sized, tmp_path):
    setting.memory.from_bytes("a", DATA)
    flaky = setting.flaky
    flaky.seekable, flaky.sized = seekable, sized
    target = io.BytesIO()
    for use, expected in (
        (lambda: setting.store.get_data("a").read(), DATA),
        (lambda: list(setting.store.get_data("a")), io.BytesIO(DATA).readlines()),
        (lambda: b"".join(setting.store.get("a").iterdata(7)), DATA),
        (lambda: setting.store.to_bytes("a", 13), DATA),
        (lambda: setting.store.to_file("a", target), None),
        (lambda: setting.store.to_file("a", tmp_path / "x"), None),
        (lambda: setting.store.get_data_range("a", 20, 90).read(), DATA[20:90]),
        (lambda: setting.store.get_data_range("a", -80).read(), DATA[-80:]),
        (lambda: setting.store.get("a").range(None, -10).read(), DATA[:-10]),
    ):
        flaky.given = 0
        flaky.breaks = [30, 30, 50, 65]
        if not sized and not seekable:
            # What has been read is read again, and given again.
            flaky.breaks = [30, 30]
        assert use() == expected
        assert flaky.breaks == []
    assert target.getvalue() == (tmp_path / "x").read_bytes() == DATA
    if sized and not seekable:
        assert flaky.given <= 100


def test_a_stream_can_be_moved_in_after_it_broke_off(setting):
    setting.memory.from_bytes("a", DATA)
    setting.flaky.seekable = True
    setting.flaky.breaks = [30, 40, 55]
    stream = setting.store.get_data("a")
    assert stream.read(35) == DATA[:35]
    assert stream.seek(10) == 10
    assert stream.read(20) == DATA[10:30]
    assert stream.seek(-5, io.SEEK_END) == 95
    assert stream.read() == DATA[95:]
    assert stream.tell() == 100
    setting.flaky.seekable = False
    with pytest.raises(io.UnsupportedOperation):
        setting.store.get_data("a").seek(0)


def test_a_stream_does_not_go_on_in_other_data(setting):
    setting.memory.from_bytes("a", DATA)
    for change in (
        lambda: setting.memory.from_bytes("a", bytes(100)),
        lambda: setting.memory.delete("a"),
    ):
        setting.flaky.given = 0
        setting.flaky.breaks = [30]
        stream = setting.store.get("a").iterdata(10)
        assert next(stream) == DATA[:10]
        change()
        with pytest.raises(TemporaryError):
            list(stream)
        setting.memory.from_bytes("a", DATA)


def test_to_bytes_and_to_file_begin_anew_with_other_data(setting, tmp_path):
    for use in (
        lambda: setting.store.to_bytes("a"),
        lambda: setting.store.to_file("a", tmp_path / "x") or (tmp_path / "x").read_bytes(),
    ):
        setting.memory.from_bytes("a", DATA)
        setting.flaky.given = 0
        setting.flaky.breaks = [30]
        setting.time.while_asleep = lambda: setting.memory.from_bytes("a", bytes(100))
        assert use() == bytes(100)
    # What an open file has been given cannot be taken back.
    setting.memory.from_bytes("a", DATA)
    setting.flaky.given = 0
    setting.flaky.breaks = [30]
    with pytest.raises(TemporaryError):
        setting.store.to_file("a", io.BytesIO())


def test_without_an_etag_only_the_whole_is_read_again(setting):
    setting.memory.from_bytes("a", DATA)
    setting.flaky.tagged = False
    setting.flaky.breaks = [30, 60]
    assert setting.store.to_bytes("a") == DATA
    setting.flaky.given = 0
    setting.flaky.breaks = [30]
    setting.time.slept.clear()
    with pytest.raises(TemporaryError):
        setting.store.get_data("a").read()
    # In vain.
    assert setting.time.slept == []
    setting.flaky.given = 0
    setting.flaky.breaks = [30, 30, 30]
    with pytest.raises(TemporaryError) as caught:
        setting.store.to_bytes("a")
    assert caught.value.attempts == 3


def test_a_stream_that_breaks_off_again_and_again_is_given_up(setting):
    setting.memory.from_bytes("a", DATA)
    for use in (
        lambda: setting.store.get_data("a").read(),
        lambda: setting.store.to_bytes("a"),
    ):
        setting.flaky.given = 0
        setting.flaky.breaks = [30] * 5
        with pytest.raises(TemporaryError) as caught:
            use()
        assert caught.value.attempts == 3
        assert len(setting.flaky.breaks) == 2


def test_what_comes_counts_from_the_last_that_came(setting):
    setting.memory.from_bytes("a", DATA)
    # Two failures at each of many places.
    setting.flaky.breaks = [n for n in range(10, 100, 10) for _ in range(2)]
    assert setting.store.to_bytes("a", 10) == DATA


def test_a_closed_stream_stays_closed(setting):
    setting.memory.from_bytes("a", DATA)
    stream = setting.store.get_data("a")
    setting.flaky.breaks = [30]
    assert stream.read(40) == DATA[:40]
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read()
    with pytest.raises(ValueError, match="closed"):
        stream.seek(0)


def test_progress_of_each_attempt_is_told(setting):
    heard = []
    for kind in (StoreProgressStartEvent, StoreProgressEndEvent):
        setting.manager.connect(kind, heard.append)
    setting.fails("set_data", timed_out())
    setting.store.from_bytes("a", DATA)
    assert [getattr(event, "exit_state", None) for event in heard] == [
        None,
        "exception",
        None,
        "normal",
    ]
    assert setting.store.to_bytes("a") == DATA


ITERATORS = {
    "query": lambda store, **kwargs: [key for key, _ in store.query(**kwargs)],
    "query_keys": lambda store, **kwargs: list(store.query_keys(**kwargs)),
    "glob": lambda store: list(store.glob("*")),
    "keys": lambda store, *args: list(store.keys(*args)),
}


class BreakingWalks:
    """Each walk breaks off after so many items, until there are no more numbers."""

    def __init__(self, flaky):
        self.flaky = flaky
        self.lengths = []
        self.given = 0
        flaky.iterate = self.iterate

    def iterate(self, method, items):
        length = self.lengths.pop(0) if self.lengths else None

        def walk():
            for count, item in enumerate(items):
                if count == length:
                    raise timed_out()
                self.given += 1
                yield item

        return walk()


@pytest.mark.parametrize("method", ITERATORS)
def test_an_iterator_goes_on_without_repeating_or_losing_keys(setting, method):
    names = [f"{n:02}" for n in range(20)]
    for name in names:
        setting.memory.set(name, (io.BytesIO(), {"n": 1}))
    walks = BreakingWalks(setting.flaky)
    iterate = ITERATORS[method]
    if method == "keys":
        for arguments, expected in (
            ((), names),
            (("", "04", 12), names[5:17]),
            (("1", None, 10), names[10:]),
            (("", None, 7), names[:7]),
        ):
            walks.given, walks.lengths = 0, [0, 4, 0, 3]
            assert iterate(setting.store, *arguments) == expected
            # Behind the last one, not from the beginning.
            assert walks.given == len(expected)
    else:
        for lengths in ([0, 0], [5, 12, 19], [5, 0, 19], [19, 3]):
            walks.lengths = list(lengths)
            found = iterate(setting.store)
            assert (len(found), sorted(found)) == (20, names)
            assert walks.lengths == []
    # No further than before is no progress.
    walks.lengths = [0, 0, 0] if method == "keys" else [7, 7, 5]
    with pytest.raises(TemporaryError) as caught:
        iterate(setting.store)
    assert caught.value.attempts == 3


@pytest.mark.parametrize("method", ITERATORS)
def test_beginning_an_iterator_again_may_fail_too(setting, method):
    for name in "abc":
        setting.memory.from_bytes(name, b"")
    setting.flaky.script = [
        (method, "before", timed_out()),
        (f"next {method}", "before", timed_out()),
        (method, "before", timed_out()),
    ]
    assert sorted(ITERATORS[method](setting.store)) == ["a", "b", "c"]
    assert setting.flaky.script == []


def test_bad_arguments_are_told_by_the_call(setting):
    for use in (
        lambda: setting.store.query("name"),
        lambda: setting.store.query(where=5),
        lambda: setting.store.query_keys(where=5),
        lambda: setting.store.query_keys(select=5),
        lambda: setting.store.keys(5),
        lambda: setting.store.glob(5),
        lambda: setting.store.get_data_range("a", "x"),
        lambda: setting.store.set("a", b"data"),
        lambda: setting.store.set_data("a", b"data"),
        lambda: setting.store.from_bytes("a", "text"),
        lambda: setting.store.from_file("a", 5),
        lambda: setting.store.to_file("a", 5),
    ):
        with pytest.raises(TypeError):
            use()


# Writing


class Once(io.RawIOBase):
    """A stream that cannot be put back."""

    def __init__(self, data):
        self.file = io.BytesIO(data)

    def read(self, size=-1):
        return self.file.read(size)


class File(io.BytesIO):
    """One that can."""


WRITES = {
    "set a stream": ("set", lambda store, path: store.set("a", (File(DATA), {"n": 1}))),
    "set bytes": ("set", lambda store, path: store.set("a", (io.BytesIO(DATA), {"n": 1}))),
    "set a value": ("set", lambda store, path: store.set("a", StringValue(DATA, {"n": 1}))),
    "set_data": ("set_data", lambda store, path: store.set_data("a", File(DATA))),
    "from_bytes": ("set_data", lambda store, path: store.from_bytes("a", bytearray(DATA))),
    "from_file": ("set_data", lambda store, path: store.from_file("a", path)),
    "from an open file": ("set_data", lambda store, path: store.from_file("a", File(DATA))),
    "set_metadata": ("set_metadata", lambda store, path: store.set_metadata("a", {"n": 1})),
    "update_metadata": (
        "update_metadata",
        lambda store, path: store.update_metadata("a", {"n": 1}),
    ),
    "multiset": (
        "set",
        lambda store, path: store.multiset(iter("a"), iter([(File(DATA), {"n": 1})])),
    ),
    "multiset_data": ("set_data", lambda store, path: store.multiset_data("a", [File(DATA)])),
    "multiset_metadata": (
        "set_metadata",
        lambda store, path: store.multiset_metadata("a", [{"n": 1}]),
    ),
    "mapping": ("set_data", lambda store, path: store.mapping().update(a=DATA)),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_what_writes_is_tried_again(setting, write, when, watched, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(DATA)
    method, use = WRITES[write]
    setting.memory.set("a", (io.BytesIO(DATA if "meta" in write else b"old"), {"n": 1}))
    if watched:
        setting.manager.connect(StoreProgressStartEvent, lambda event: None)
    setting.fails(method, timed_out(), StoreOSError(errno.EPIPE, "broken"), when=when)
    use(setting.store, path)
    assert setting.memory.to_bytes("a") == DATA
    assert setting.memory.get_metadata("a") == {"n": 1}
    assert setting.flaky.calls.count(method) == 3
    # Once, however often it was tried.
    assert setting.told == [("Update", "a", {"n": 1})]


def test_a_stream_is_put_back_to_where_it_stood(setting):
    for kind in (io.BytesIO, File):
        stream = kind(b"skipped" + DATA)
        stream.seek(7)
        setting.fails("set_data", timed_out(), timed_out(), when="after")
        setting.store.set_data("a", stream)
        assert setting.memory.to_bytes("a") == DATA
        assert not stream.closed


def test_a_stream_that_cannot_be_put_back_is_not_stored_in_part(setting):
    for method, write in (
        ("set_data", lambda stream: setting.store.set_data("a", stream)),
        ("set", lambda stream: setting.store.set("a", (stream, {}))),
        ("set_data", lambda stream: setting.store.from_file("a", stream)),
    ):
        setting.fails(method, timed_out(), when="after")
        with pytest.raises(TemporaryError) as caught:
            write(Once(DATA))
        assert caught.value.attempts == 1
        assert setting.time.slept == []
        assert setting.memory.to_bytes("a") == DATA


def test_a_stream_that_was_not_read_yet_need_not_be_put_back(setting):
    setting.fails("set_data", timed_out())
    setting.store.set_data("a", Once(DATA))
    assert setting.memory.to_bytes("a") == DATA


def test_a_stream_that_refuses_to_be_put_back_is_not_stored_in_part(setting):
    class Broken(File):
        def seek(self, *args):
            raise OSError("seek")

    setting.fails("set_data", timed_out(), when="after")
    with pytest.raises(TemporaryError):
        setting.store.set_data("a", Broken(DATA))


@pytest.mark.parametrize("error", [timed_out(), StoreOSError(errno.EAGAIN, "later")])
def test_what_a_callers_stream_raises_passes_through(setting, error):
    class Failing(File):
        def read(self, size=-1):
            raise error

    for use in (
        lambda: setting.store.set_data("a", Failing()),
        lambda: setting.store.set("a", (Failing(), {})),
    ):
        with pytest.raises(StoreError) as caught:
            use()
        assert caught.value is error
    assert setting.time.slept == []
    assert not hasattr(error, "attempts")


class OldStore(AbstractStore):
    """A store in the style of 0.8, which reads a stream to its end at once."""

    def __init__(self):
        super().__init__(event_manager=EventManager())
        self.contents = {}
        self.failures = []

    def get(self, key):
        return StringValue(*self.contents[key])

    def query(self, select=None, **kwargs):
        return iter([(key, metadata) for key, (_, metadata) in self.contents.items()])

    def set(self, key, value, buffer_size=1048576):
        self.contents[key] = (value[0].read(), value[1])
        if self.failures:
            raise self.failures.pop()

    def delete(self, key):
        del self.contents[key]
        if self.failures:
            raise self.failures.pop()


def test_a_store_of_08_is_tried_again_too():
    inner = OldStore()
    store = RetryStore(inner, FakeTime().policy(), event_manager=EventManager())
    told = []
    store.event_manager.connect(StoreModificationEvent, told.append)
    for stream in (File(DATA), io.BytesIO(DATA)):
        inner.failures = [timed_out()]
        store.set("a", (stream, {"n": 1}))
        assert store.to_bytes("a") == DATA
    assert list(store.query_keys(where={"n": 1})) == ["a"]
    inner.failures = [timed_out()]
    with pytest.raises(TemporaryError):
        store.set_data("a", Once(DATA))
    inner.failures = [timed_out()]
    store.delete("a")
    assert [type(event).__name__ for event in told][-1] == "StoreDeleteEvent"
    assert len(told) == 3


CONDITIONAL = {
    "set": lambda store, **condition: store.set("a", (File(DATA), {}), **condition),
    "set_data": lambda store, **condition: store.set_data("a", File(DATA), **condition),
    "set_metadata": lambda store, **condition: store.set_metadata("a", {"n": 1}, **condition),
    "update_metadata": lambda store, **condition: store.update_metadata("a", {"n": 1}, **condition),
    "delete": lambda store, **condition: store.delete("a", **condition),
}


@pytest.mark.parametrize("method", CONDITIONAL)
def test_with_a_condition_only_what_has_not_happened_is_tried_again(setting, method):
    use = CONDITIONAL[method]
    for error, again in (
        (timed_out(), False),
        (timed_out(happened=True), False),
        (StoreOSError(errno.ECONNRESET, "reset"), False),
        (timed_out(happened=False), True),
        (StoreOSError(errno.ECONNREFUSED, "refused"), True),
    ):
        setting.memory.from_bytes("a", b"old")
        etag = setting.store.get("a").etag
        setting.fails(method, error)
        if again:
            use(setting.store, if_match=etag)
            assert setting.time.slept == [0.1]
        else:
            with pytest.raises(type(error)):
                use(setting.store, if_match=etag)
            assert setting.time.slept == []
            assert setting.memory.to_bytes("a") == b"old"


def test_create_only_does_not_fail_on_what_it_has_created_itself(setting):
    setting.fails("set", timed_out(), when="after")
    # Not PreconditionError: nobody else was there.
    with pytest.raises(TemporaryError):
        setting.store.set("a", (File(DATA), {}), if_none_match="*")
    setting.fails("set")
    with pytest.raises(PreconditionError):
        setting.store.set("a", (File(DATA), {}), if_none_match="*")


def test_delete_is_tried_again(setting):
    setting.memory.set("a", (io.BytesIO(), {"n": 1}))
    setting.fails("delete", timed_out())
    setting.store.delete("a")
    assert not setting.memory.exists("a")
    assert setting.told == [("Delete", "a", {"n": 1})]


def test_a_key_that_is_gone_after_a_lost_attempt_was_deleted(setting):
    for error in (timed_out(), timed_out(happened=True), StoreOSError(errno.EPIPE, "x")):
        setting.memory.from_bytes("a", b"1")
        setting.told.clear()
        setting.fails("delete", error, when="after")
        setting.store.delete("a")
        assert not setting.memory.exists("a")
        assert setting.told == [("Delete", "a", {})]


def test_a_deletion_that_was_told_is_not_told_again(setting):
    setting.memory.set("a", (io.BytesIO(), {"n": 1}))
    setting.fails("delete", timed_out(), when="told")
    setting.store.delete("a")
    assert setting.told == [("Delete", "a", {"n": 1})]


def test_a_key_that_is_gone_though_nothing_has_happened_is_missing(setting):
    setting.fails("delete", timed_out(happened=False), StoreOSError(errno.ECONNREFUSED, "x"))
    with pytest.raises(KeyError):
        setting.store.delete("a")
    assert setting.told == []
    assert len(setting.time.slept) == 2


@pytest.mark.parametrize("write", WRITES)
def test_what_failed_for_good_changes_nothing_and_is_not_told(setting, write, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(DATA)
    setting.memory.from_bytes("a", b"old")
    method, use = WRITES[write]
    setting.fails(method, *(timed_out() for _ in range(3)))
    with pytest.raises(TemporaryError) as caught:
        use(setting.store, path)
    assert caught.value.attempts == 3
    assert setting.memory.to_bytes("a") == b"old"
    assert setting.told == []


# Transactions


def test_nothing_is_tried_again_in_a_transaction():
    setting = Setting(Flaky)
    setting.memory.from_bytes("a", DATA)
    for begin in (
        setting.store.transaction,
        setting.flaky.transaction,
        setting.memory.transaction,
    ):
        for method, use in (
            ("set_data", lambda: setting.store.from_bytes("b", b"")),
            ("delete", lambda: setting.store.delete("a")),
            ("get", lambda: setting.store.to_bytes("a")),
            ("keys", setting.store.keys),
            ("next keys", lambda: list(setting.store.keys())),
        ):
            with begin():
                setting.fails(method, timed_out())
                with pytest.raises(TemporaryError) as caught:
                    use()
            assert caught.value.attempts == 1
            assert setting.time.slept == []
            assert setting.memory.to_bytes("a") == DATA


def test_nothing_is_tried_again_in_a_transaction_of_a_lower_layer():
    setting = Setting(Flaky)
    lower = DictMemoryStore(event_manager=EventManager())
    store = RetryStore(JoinedStore([setting.flaky, lower]), setting.time.policy())
    setting.fails("exists", timed_out())
    with lower.transaction(), pytest.raises(TemporaryError):
        store.exists("key")
    assert setting.time.slept == []


def test_a_stream_does_not_wait_in_a_transaction():
    setting = Setting(Flaky)
    setting.memory.from_bytes("a", DATA)
    setting.flaky.breaks = [30]
    stream = setting.store.get_data("a")
    with setting.store.transaction(), pytest.raises(TemporaryError):
        stream.read()
    # It goes on afterwards.
    assert stream.read() == DATA[30:]


def test_the_beginning_of_a_transaction_is_tried_again():
    setting = Setting(Flaky)
    setting.fails("begin", timed_out(), timed_out())
    with setting.store.transaction():
        setting.store.from_bytes("a", b"1")
        assert setting.told == []
    assert setting.told == [("Set", "a", {})]
    assert setting.time.slept == [0.1, 0.2]
    setting.fails("begin", timed_out(), timed_out())
    setting.store.multiset_data("ab", [io.BytesIO(DATA), io.BytesIO(DATA)])
    assert setting.memory.to_bytes("b") == DATA


def test_a_bulk_that_fails_in_its_transaction_is_rolled_back():
    setting = Setting(Flaky)
    setting.fails("set_data")

    def datas():
        yield io.BytesIO(b"1")
        setting.fails("set_data", timed_out())
        yield io.BytesIO(b"2")

    with pytest.raises(TemporaryError):
        setting.store.multiset_data("ab", datas())
    assert list(setting.memory.keys()) == []
    assert setting.told == []


def test_without_transactions_a_bulk_goes_key_by_key(setting):
    setting.fails("set_data")

    def datas():
        for data in (b"1", b"2", b"3"):
            setting.flaky.script = [("set_data", "before", timed_out())]
            yield io.BytesIO(data)

    setting.store.multiset_data("abc", datas())
    assert [setting.memory.to_bytes(key) for key in "abc"] == [b"1", b"2", b"3"]
    assert setting.told == [("Set", key, {}) for key in "abc"]
    setting.fails("delete", timed_out(), when="after")
    setting.store.move("a", "d")
    assert sorted(setting.memory.keys()) == ["b", "c", "d"]
    setting.fails("set", timed_out())
    setting.store.copy("d", "e")
    assert setting.memory.to_bytes("e") == b"1"


def test_what_the_inner_store_finds_is_found(setting):
    setting.memory._store["a"] = (b"data", {}, 1.0, 1.0)
    assert setting.store.check() == setting.flaky.check() == []
    assert setting.store.info() == {**setting.flaky.info(), "type": "RetryStore"}


def test_what_is_the_policys_is_given_to_the_policy():
    inner = DictMemoryStore(event_manager=EventManager())
    with pytest.raises(
        TypeError, match=r"RetryStore\(store, RetryPolicy\(attempts=\.\.\., factor="
    ):
        RetryStore(inner, attempts=3, factor=2)
    assert list(inspect.signature(RetryStore).parameters) == ["store", "policy", "event_manager"]
