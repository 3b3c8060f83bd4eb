"""Stores that are broken in one way each, and the check of the kit that catches it."""

from __future__ import annotations

import inspect
import io
import json
import logging
import re
import threading
import unicodedata
import unittest
import unittest.mock
import weakref

import pytest

from encore.events.event_manager import EventManager
from encore.storage import errors
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.events import StoreSetEvent, StoreUpdateEvent
from encore.storage.string_value import StringValue
from encore.storage.value import Value
from encore.testing.conformance import StoreCase, StoreConformance

BROKEN = []


def caught_by(*checks, saying="The contract: "):
    """Note a broken store, the checks that must catch it, and what these must say.

    A check that looks at many things could stumble over another one.
    """

    def note(cls):
        BROKEN.extend(
            pytest.param(cls, check, saying, id=f"{cls.__name__}-{check}") for check in checks
        )
        return cls

    return note


def outcome(store_class, check):
    """Run one check of the kit on a kind of store."""

    class Case(StoreConformance, unittest.TestCase):
        # Short where it will be waited in vain.
        patience = getattr(store_class, "patience", StoreConformance.patience)

        def make_store(self, event_manager):
            return store_class(event_manager=event_manager)

    result = unittest.TestResult()
    Case(check).run(result)
    return result


def told(result):
    return "".join(text for _, text in [*result.failures, *result.errors])


# Data and metadata


@caught_by("test_many_threads_on_one_key", "test_a_failing_stream_keeps_the_old_pair")
class TornPair(DictMemoryStore):
    """Metadata are visible before the data."""

    def set(self, key, value, buffer_size=2**20, **conditions):
        if isinstance(value, tuple):
            super().set_metadata(key, value[1])
        super().set(key, value, buffer_size, **conditions)


@caught_by("test_a_failing_stream_keeps_the_old_pair")
class FailingStreamTruncates(DictMemoryStore):
    def _stage(self, chunks, size):
        done = b""
        try:
            for chunk in chunks:
                done += chunk
        except Exception:
            self._store["old"] = (done, {}, 1.0, 2.0)
            raise
        return done


@caught_by("test_a_failing_stream_keeps_the_old_pair")
class StreamErrorWrapped(DictMemoryStore):
    def set(self, *args, **kwargs):
        try:
            super().set(*args, **kwargs)
        except OSError as error:
            raise errors.StoreError("cannot write") from error


@caught_by("test_no_tail_of_a_longer_value")
class LeftoverTail(DictMemoryStore):
    def _make(self, key, old, staged, head):
        record = super()._make(key, old, staged, head)
        if old is None or staged is None:
            return record
        return (record[0] + old[0][len(record[0]) :], *record[1:])


@caught_by("test_an_open_reader_keeps_what_it_opened", "test_a_value_stays_one_pair")
class LazyValue(DictMemoryStore):
    """A value looks its data up in the store again."""

    def get(self, key):
        store, head = self, super().get(key)

        class Lazy(Value):
            size, created, modified, etag = head.size, head.created, head.modified, head.etag
            metadata = property(lambda self: head.metadata)

            @property
            def data(self):
                class Raw(io.RawIOBase):
                    position = 0

                    def readable(self):
                        return True

                    def readinto(self, buffer):
                        data = store._store[key][0][self.position : self.position + len(buffer)]
                        buffer[: len(data)] = data
                        self.position += len(data)
                        return len(data)

                return io.BufferedReader(Raw(), 1)

        return Lazy()


@caught_by("test_streams_are_independent")
class SharedStream(DictMemoryStore):
    def get(self, key):
        value = super().get(key)
        stream = value.data

        class Shared(StringValue):
            data = stream

        return Shared.of_normalised(value._data, value._metadata, value.created, value.modified)


@caught_by("test_streams_are_read_from_their_position_and_left_open")
class ClosesTheStream(DictMemoryStore):
    def _write(self, key, stream, *args):
        super()._write(key, stream, *args)
        if hasattr(stream, "close"):
            stream.close()


@caught_by("test_reads_of_any_size_are_put_together")
class ShortReadIsTheEnd(DictMemoryStore):
    def _write(self, key, stream, metadata, size, buffer_size, condition):
        stream = io.BytesIO(stream.read(buffer_size))
        super()._write(key, stream, metadata, size, buffer_size, condition)


@caught_by("test_reads_of_any_size_are_put_together")
class ReadsEverything(DictMemoryStore):
    def _write(self, key, stream, metadata, size, buffer_size, condition):
        super()._write(key, stream, metadata, size, 2**20, condition)


@caught_by("test_ranges_are_slices", "test_ranges_of_a_large_value")
class InclusiveRange(DictMemoryStore):
    def get_data_range(self, key, start=None, end=None):
        return super().get_data_range(key, start, None if end is None or end < 0 else end + 1)


@caught_by("test_ranges_are_slices", saying="ValueError: start lies behind the end")
class RangeOutOfBounds(DictMemoryStore):
    def get_data_range(self, key, start=None, end=None):
        if start is not None and start > self.get(key).size:
            raise ValueError("start lies behind the end")
        return super().get_data_range(key, start, end)


@caught_by("test_to_file_keeps_the_target_on_failure")
class WritesFilesInPlace(DictMemoryStore):
    def to_file(self, key, path, buffer_size=2**20):
        if isinstance(path, io.IOBase):
            return super().to_file(key, path, buffer_size)
        with open(path, "wb", buffering=0) as file:
            return super().to_file(key, file, buffer_size)


@caught_by("test_set_data_keeps_the_metadata")
class SetDataDropsMetadata(DictMemoryStore):
    def set_data(self, key, data, buffer_size=2**20, **conditions):
        self.set(key, (data, {}), buffer_size, **conditions)


# Keys


class Renaming(DictMemoryStore):
    rename = staticmethod(str)

    def _load(self, key):
        return super()._load(self.rename(key))

    def _put(self, key, record):
        super()._put(self.rename(key), record)


@caught_by("test_look_alikes_are_different_keys", "test_every_legal_key_keeps_its_own_value")
class FoldsCase(Renaming):
    rename = staticmethod(str.lower)


@caught_by("test_look_alikes_are_different_keys", "test_every_legal_key_keeps_its_own_value")
class StripsKeys(Renaming):
    rename = staticmethod(str.strip)


@caught_by("test_look_alikes_are_different_keys", "test_every_legal_key_keeps_its_own_value")
class NormalisesKeys(Renaming):
    @staticmethod
    def rename(key):
        return unicodedata.normalize("NFC", key)


@caught_by("test_long_keys_work")
class CutsLongKeys(Renaming):
    @staticmethod
    def rename(key):
        return key[:255]


@caught_by("test_bad_keys_are_refused_by_every_method")
class ExistsTakesAnything(DictMemoryStore):
    def exists(self, key):
        return key in self._store


@caught_by("test_a_missing_key_is_a_key_error_from_every_method")
class LazyKeyError(DictMemoryStore):
    def get_data(self, key):
        from encore.storage.utils import BufferIteratorIO

        def pieces():
            yield super(LazyKeyError, self).get_data(key).read()

        return BufferIteratorIO(pieces())


@caught_by("test_a_missing_key_is_a_key_error_from_every_method")
class WrongErrorClass(DictMemoryStore):
    def get_metadata(self, key, select=None):
        try:
            return super().get_metadata(key, select)
        except KeyError as error:
            raise errors.StoreError(f"no {key}") from error


@caught_by(
    "test_a_missing_key_is_a_key_error_from_every_method", "test_a_deleted_key_does_not_exist"
)
class DeleteIsForgiving(DictMemoryStore):
    def delete(self, key, **conditions):
        try:
            super().delete(key, **conditions)
        except KeyError:
            pass


# Metadata


@caught_by("test_metadata_is_copied_in")
class AliasedIn(DictMemoryStore):
    def set_metadata(self, key, metadata, **conditions):
        super().set_metadata(key, metadata, **conditions)
        data, _, created, modified = self._store[key]
        self._store[key] = (data, metadata, created, modified)


@caught_by("test_metadata_is_copied_out")
class AliasedOut(DictMemoryStore):
    def get_metadata(self, key, select=None):
        metadata = super().get_metadata(key, select)
        return self._store[key][1] if select is None else metadata


@caught_by("test_metadata_is_copied_out")
class ShallowCopyInQuery(DictMemoryStore):
    def query(self, *args, **kwargs):
        for key, metadata in super().query(*args, **kwargs):
            yield key, {name: self._store[key][1][name] for name in metadata}


@caught_by("test_metadata_is_copied_out")
class AliasedEvent(DictMemoryStore):
    def _tell(self, change):
        self.event_manager.emit(change.kind(self, key=change.key, metadata=change.metadata))


class Lenient(DictMemoryStore):
    """Some metadata that should be refused are changed into others."""

    def set_metadata(self, key, metadata, **conditions):
        if type(metadata) is dict:
            metadata = {self.name(name): self.value(item) for name, item in metadata.items()}
        super().set_metadata(key, metadata, **conditions)

    def name(self, name):
        return name

    def value(self, item):
        return item


@caught_by("test_bad_metadata_is_refused_before_anything_is_touched", saying="{'a': nan}) did not")
class NaNBecomesNull(Lenient):
    def value(self, item):
        return None if item != item else item


@caught_by("test_bad_metadata_is_refused_before_anything_is_touched", saying="{1: 'a'}) did not")
class NamesBecomeText(Lenient):
    def name(self, name):
        return str(name) if type(name) is int else name


@caught_by("test_large_metadata", saying="ValueError: nested too deeply")
class ShallowMetadata(DictMemoryStore):
    """What is nested more than a few levels deep is refused."""

    def _modify(self, key, staged, metadata, *args):
        if metadata is not None and json.dumps(metadata).count("[") > 50:
            raise ValueError("nested too deeply")
        return super()._modify(key, staged, metadata, *args)


@caught_by("test_every_json_value_comes_back_as_it_was")
class IntegersBecomeFloats(DictMemoryStore):
    def _make(self, key, old, staged, head):
        metadata = json.loads(json.dumps(head.metadata), parse_int=float)
        return super()._make(key, old, staged, head._replace(metadata=metadata))


@caught_by("test_select")
class SelectUsedUp(DictMemoryStore):
    def query(self, select=None, **kwargs):
        for key, metadata in super().query(**kwargs):
            names = None if select is None else [name for name in select if name in metadata]
            yield key, metadata if names is None else {name: metadata[name] for name in names}


# Queries


def _naive(metadata, criteria):
    return all(metadata.get(name) == value for name, value in criteria.items())


@caught_by("test_equality_of_json_values", "test_all_criteria_must_hold")
class TrueIsOne(DictMemoryStore):
    """Python's equality, and None for what is not there."""

    def query_keys(self, **criteria):
        return iter([key for key, metadata in self.query() if _naive(metadata, criteria)])


@caught_by("test_all_criteria_must_hold")
class AnyCriterionWillDo(DictMemoryStore):
    def query(self, *args, **criteria):
        for key, metadata in super().query():
            if not criteria or any(metadata.get(name) == value for name, value in criteria.items()):
                yield key, metadata


@caught_by("test_the_store_may_change_inside_loops", saying="changed size during iteration")
class WalkBreaks(DictMemoryStore):
    """Walks over the dict itself."""

    def query_keys(self, **criteria):
        return (key for key, _ in self.query(**criteria))

    def query(self, *args, **criteria):
        for key, record in self._store.items():
            if _naive(record[1], criteria):
                yield key, dict(record[1])


@caught_by("test_queries_see_every_change")
class StaleIndex(DictMemoryStore):
    """Queries are answered from an index that set_metadata() forgets."""

    def _prepare(self):
        super()._prepare()
        self._index = {}

    def _save(self, key, staged, head):
        super()._save(key, staged, head)
        if staged is not None or key not in self._index:
            self._index[key] = head.metadata

    def query_keys(self, **criteria):
        found = super().query_keys()
        return (key for key in found if _naive(self._index.get(key, {}), criteria))


@caught_by("test_glob")
class GlobFoldsCase(DictMemoryStore):
    def glob(self, pattern):
        import fnmatch

        return (
            key for key in self.query_keys() if fnmatch.fnmatchcase(key.lower(), pattern.lower())
        )


@caught_by("test_pages")
class PagesOverlap(DictMemoryStore):
    def keys(self, prefix="", start_after=None, limit=None):
        found = sorted(key for key in self.query_keys() if key.startswith(prefix))
        found = [key for key in found if start_after is None or key >= start_after]
        return iter(found[:limit])


# Stamps and conditions


@caught_by("test_stamps")
class CreatedIsLost(DictMemoryStore):
    def _make(self, key, old, staged, head):
        return super()._make(key, old, staged, head._replace(created=head.modified))


@caught_by("test_stamps")
class ModifiedGoesBack(DictMemoryStore):
    _clock = staticmethod(iter(range(10**9, 0, -1)).__next__)

    def _make(self, key, old, staged, head):
        return super()._make(key, old, staged, head._replace(modified=float(self._clock())))


@caught_by("test_etags", "test_only_the_current_etag_holds")
class EtagOfTheData(DictMemoryStore):
    """Metadata do not count."""

    def _head_of(self, key, record):
        return super()._head_of(key, (record[0], {}, 0.0, 0.0))

    def get(self, key):
        value = super().get(key)

        class Tagged(StringValue):
            etag = self._head(key).etag

        return Tagged.of_normalised(value._data, value._metadata, value.created, value.modified)


class CheckThenAct(DictMemoryStore):
    """The condition is looked at before the change, not with it."""

    def _write(self, key, stream, metadata, size, buffer_size, condition):
        if condition is not None:
            condition.check(key, self._head(key))
        super()._write(key, stream, metadata, size, buffer_size, None)


@caught_by("test_a_stream_may_change_the_key_meanwhile")
class RacyConditions(CheckThenAct):
    pass


@caught_by("test_create_only", "test_only_the_current_etag_holds", "test_bad_conditions")
class IgnoresConditions(DictMemoryStore):
    def set(self, key, value, buffer_size=2**20, **conditions):
        super().set(key, value, buffer_size)


# Transactions


@caught_by("test_nobody_else_sees_anything_before_the_commit")
class TransactionLeaks(DictMemoryStore):
    def _put(self, key, record):
        super()._put(key, record)
        self._apply({key: record})


@caught_by("test_rollback_restores_everything", "test_an_outer_failure_undoes_the_inner_part_too")
class RollbackForgetsMetadata(DictMemoryStore):
    def _rollback(self):
        for key, record in self._state.overlay.items():
            if record is not None and key in self._store:
                data, _, created, modified = self._store[key]
                self._store[key] = (data, record[1], created, modified)
        super()._rollback()


@caught_by("test_rollback_restores_everything")
class RollbackForgetsStamps(DictMemoryStore):
    def _rollback(self):
        for key, record in self._state.overlay.items():
            if record is not None and key in self._store:
                self._store[key] = (*self._store[key][:3], record[3])
        super()._rollback()


@caught_by("test_rollback_restores_everything")
class InterruptCommits(DictMemoryStore):
    """Only an Exception rolls back."""

    def transaction(self, notes=""):
        context = super().transaction(notes)

        class Context:
            def __enter__(self):
                return context.__enter__()

            def __exit__(self, kind, error, traceback):
                if not isinstance(error, Exception):
                    kind = error = traceback = None
                context.__exit__(kind, error, traceback)

        return Context()


@caught_by("test_an_inner_failure_undoes_the_inner_part_alone")
class InnerFailureIsIgnored(DictMemoryStore):
    def _rollback_to(self, savepoint):
        pass


@caught_by("test_other_writers_wait")
class WritersAreLetIn(DictMemoryStore):
    """The lock is taken at the commit."""

    def _lock(self):
        pass

    def _unlock(self):
        pass


@caught_by(
    "test_the_events_of_a_failed_transaction", "test_an_inner_failure_undoes_the_inner_part_alone"
)
class TellsWhatWasRolledBack(DictMemoryStore):
    def _put(self, key, record):
        super()._put(key, record)
        if record is not None:
            self.event_manager.emit(StoreUpdateEvent(self, key=key, metadata={}))


@caught_by("test_what_was_written_can_be_read_inside")
class DoesNotReadItsWrites(DictMemoryStore):
    def _list(self, prefix=""):
        return [key for key in self._load_keys() if key.startswith(prefix)]


@caught_by("test_a_failed_commit_leaves_nothing_half_done", saying="nothing is changed by")
class HalfACommit(DictMemoryStore):
    """A commit that fails has done all but the last."""

    def _apply(self, overlay):
        last = next(reversed(overlay))
        for key, record in overlay.items():
            if key == last and getattr(self, "failing", False):
                raise errors.StoreError("the commit failed")
            super()._apply({key: record})


# Events


@caught_by("test_each_change_has_exactly_one_event")
class LostEvent(DictMemoryStore):
    def update_metadata(self, key, metadata, **conditions):
        manager, self.event_manager = self.event_manager, EventManager()
        try:
            super().update_metadata(key, metadata, **conditions)
        finally:
            self.event_manager = manager


@caught_by("test_each_change_has_exactly_one_event", "test_events_of_many_threads")
class DoubleEvent(DictMemoryStore):
    def _tell(self, change):
        super()._tell(change)
        super()._tell(change)


@caught_by("test_each_change_has_exactly_one_event")
class UpdateToldAsSet(DictMemoryStore):
    def _tell(self, change):
        super()._tell(change._replace(kind=StoreSetEvent))


@caught_by("test_a_change_is_visible_when_it_is_told")
class EventBeforeVisibility(DictMemoryStore):
    def _perform(self, step):
        def telling_step():
            change = step()
            self._tell(change)
            return change

        super()._perform(telling_step)
        return []


@caught_by("test_no_lock_is_held_while_listeners_run")
class TellsUnderItsLock(DictMemoryStore):
    patience = 0.1

    def _tell(self, change):
        with self._mutex:
            super()._tell(change)


@caught_by("test_events_go_to_the_manager_of_the_moment", "test_reading_tells_its_progress")
class NoProgress(DictMemoryStore):
    def to_bytes(self, key, buffer_size=2**20):
        return self._read(key).data.read()

    def _write(self, key, stream, *args):
        manager, self.event_manager = self.event_manager, type(self.event_manager)()
        try:
            super()._write(key, stream, *args)
        finally:
            self.event_manager = manager


@caught_by("test_failure_ends_the_progress")
class ProgressNeverEnds(DictMemoryStore):
    def _write(self, key, stream, *args):
        from encore.storage.events import StoreProgressEndEvent

        try:
            super()._write(key, stream, *args)
        except Exception:
            raise
        finally:
            self.event_manager.enable(StoreProgressEndEvent)

    def _stage(self, chunks, size):
        from encore.storage.events import StoreProgressEndEvent

        try:
            return super()._stage(chunks, size)
        except Exception:
            self.event_manager.disable(StoreProgressEndEvent)
            raise


# Bulk, concurrency, life cycle


@caught_by("test_many_keys_are_read_by_one_call")
class BulkSwallowsMissingKeys(DictMemoryStore):
    def multiget(self, keys):
        return (self.get(key) for key in keys if self.exists(key))


@caught_by("test_what_fails_in_the_middle", "test_one_transaction")
class BulkWithoutTransaction(DictMemoryStore):
    def multiset(self, keys, values, buffer_size=2**20):
        for key, value in zip(keys, values, strict=False):
            self.set(key, value, buffer_size)


@caught_by("test_keys_and_values_may_be_generators", saying="MemoryError: the values have no end")
class BulkNeedsLists(DictMemoryStore):
    def multiset(self, keys, values, buffer_size=2**20):
        keys, values = list(keys), list(_some(values))
        super().multiset(keys[: len(values)], values, buffer_size)


def _some(values):
    for number, value in enumerate(values):
        if number > 100:
            raise MemoryError("the values have no end")
        yield value


@caught_by("test_set_data_and_set_metadata_at_once_lose_nothing")
class ReadModifyWrite(DictMemoryStore):
    """set_metadata() reads the data, and writes them back later."""

    def set_metadata(self, key, metadata, **conditions):
        data = self.to_bytes(key) if self.exists(key) else b""
        # Long enough that another thread gets its turn.
        threading.Event().wait(0.001)
        self.set(key, (io.BytesIO(data), metadata), **conditions)


@caught_by("test_the_store_works_in_a_forked_child")
class LockSurvivesFork(DictMemoryStore):
    patience = 0.1

    def _forked(self):
        self._state = type(self._state)()


@caught_by("test_pickling")
class PickleDropsData(DictMemoryStore):
    def __setstate__(self, state):
        super().__setstate__(state)
        self._store = {}
        self._connected = True


@caught_by(
    "test_a_disconnected_store_refuses_to_read", "test_a_disconnected_store_refuses_to_write"
)
class HalfConnected(DictMemoryStore):
    """get() needs a connection and says so wrongly; others do not ask."""

    _must_connect = True

    def get(self, key):
        if not self._connected:
            raise KeyError(key)
        return super().get(key)

    def set_metadata(self, key, metadata, **conditions):
        connected, self._connected = self._connected, True
        try:
            super().set_metadata(key, metadata, **conditions)
        finally:
            self._connected = connected


@caught_by("test_info", saying="KeyError: 'authorizing'")
class InfoIsShort(DictMemoryStore):
    def info(self):
        return {"type": "x", "readonly": False, "transactional": True, "conditional": True}


@caught_by("test_connect_and_disconnect_twice", saying="StoreError: not connected")
class DisconnectOnlyOnce(DictMemoryStore):
    def disconnect(self):
        if not self._connected:
            raise errors.StoreError("not connected")
        super().disconnect()


@caught_by("test_disconnect_ends_threads")
class LeavesAThread(DictMemoryStore):
    patience = 0.1

    def _open(self, credentials):
        threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()


@caught_by("test_a_dummy_does_nothing", "test_a_store_that_cannot_says_so")
class ModestInfo(DictMemoryStore):
    """Says that it has neither transactions nor conditions, and has both."""

    def info(self):
        return {**super().info(), "transactional": False, "conditional": False}


@pytest.fixture(autouse=True)
def quiet():
    # What listeners raise is logged.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("store_class", "check", "saying"), BROKEN)
def test_a_broken_store_is_caught(store_class, check, saying):
    run = half_a_commit if store_class is HalfACommit else outcome
    result = run(store_class, check)
    assert result.testsRun == 1
    assert result.failures or result.errors, f"{check} does not notice {store_class.__name__}"
    assert saying in told(result)
    # What a call says that does not fit the function.
    assert not re.search(r"TypeError: .*\bargument", told(result)), told(result)


@pytest.mark.parametrize("store_class", sorted({param.values[0] for param in BROKEN}, key=str))
def test_a_broken_store_can_be_called_like_any_other(store_class):
    for name in dir(DictMemoryStore):
        ours, whole = getattr(store_class, name), getattr(DictMemoryStore, name)
        if ours is not whole and inspect.isfunction(whole) and not name.startswith("__"):
            signature = inspect.signature(whole)
            by_place = [
                p for p in signature.parameters.values() if p.kind <= p.POSITIONAL_OR_KEYWORD
            ]
            by_name = [p.name for p in signature.parameters.values() if p.kind == p.KEYWORD_ONLY]
            inspect.signature(ours).bind(*by_place, **dict.fromkeys(by_name))


def half_a_commit(store_class, check):
    class Case(StoreConformance, unittest.TestCase):
        def make_store(self, event_manager):
            return store_class(event_manager=event_manager)

        def failing_commit(self, store):
            return unittest.mock.patch.object(store, "failing", True, create=True)

    result = unittest.TestResult()
    Case(check).run(result)
    return result


@pytest.mark.parametrize("check", sorted({param.values[1] for param in BROKEN}))
def test_a_store_that_is_not_broken_passes(check):
    result = outcome(DictMemoryStore, check)
    assert result.wasSuccessful(), told(result)


def test_a_failure_says_which_sentence_is_broken():
    result = outcome(InclusiveRange, "test_ranges_are_slices")
    assert "The contract: Ranges: exactly data[start:end]" in told(result)


def test_no_two_mixins_define_the_same_name():
    mixins = [cls for cls in StoreConformance.__mro__ if issubclass(cls, StoreCase)]
    seen = {}
    for cls in mixins:
        for name in vars(cls):
            if not name.startswith("__") and cls is not StoreCase:
                assert name not in seen, f"{name} is in {seen[name]} and {cls}"
                seen[name] = cls
    assert sum(name.startswith("test_") for name in seen) > 100


def test_every_check_has_its_sentence():
    checks = [name for name in dir(StoreConformance) if name.startswith("test_")]
    assert [name for name in checks if not getattr(StoreConformance, name).__doc__] == []


# What breaks a check by an error of its own


class WithoutStamps(DictMemoryStore):
    def get(self, key):
        value = super().get(key)
        return StringValue(value.data.read(), value.metadata)


class QueryWithoutSlash(DictMemoryStore):
    def query(self, select=None, *, where=None, **kwargs):
        return super().query(select, where=where, **kwargs)


class ReadsWithoutSize(DictMemoryStore):
    def set_data(self, key, data, buffer_size=2**20, **conditions):
        super().set_data(key, io.BytesIO(data.read()), buffer_size, **conditions)

    def set(self, key, value, buffer_size=2**20, **conditions):
        if isinstance(value, tuple):
            value = io.BytesIO(value[0].read()), value[1]
        super().set(key, value, buffer_size, **conditions)


class NotToBePickled(DictMemoryStore):
    def __init__(self, **options):
        super().__init__(**options)
        self.reference = weakref.ref(self)


@pytest.mark.parametrize(
    ("store_class", "check", "what", "sentence"),
    [
        (
            WithoutStamps,
            "test_stamps",
            "created of a value is a time in seconds",
            "created survives",
        ),
        (QueryWithoutSlash, "test_any_name_can_be_queried", "'self'", "query(self, /, ...)"),
        (
            ReadsWithoutSize,
            "test_reads_of_any_size_are_put_together",
            "read() without a size",
            "anything with read(n)",
        ),
        (NotToBePickled, "test_pickling", "cannot pickle", "stores can be pickled"),
    ],
)
def test_an_error_says_which_sentence_is_broken(store_class, check, what, sentence):
    result = outcome(store_class, check)
    assert result.errors == []
    [(_, text)] = result.failures
    assert what in text
    assert sentence in text.rpartition("The contract: ")[2]
