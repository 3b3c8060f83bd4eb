"""A run of copy_store() or sync_store(): all keys, in batches and by several threads.

What is slow is done by several threads: reading a source that has no transactions, because it is
far away or behind something that is, and writing such a target. Local stores are read, and written
in transactions, by the thread that calls.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from itertools import filterfalse, islice

from ..events.progress_events import Cancelled
from ._changes import has_listeners
from ._progress import StoreProgressManager
from ._streams import BUFFER_SIZE
from ._transfer import Transfer
from .events import StoreProgressEndEvent, StoreProgressStartEvent, StoreProgressStepEvent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future
    from contextlib import AbstractContextManager
    from typing import Any

    from ..events.abstract_event_manager import BaseEventManager
    from .abstract_store import AbstractReadOnlyStore
    from .copying import CopyReport

    Match = str | Callable[[str], object] | None

__all__ = ["Copier"]

# So much is committed at once: a commit that is flushed to disk takes about a millisecond, more
# than most values. Not more, because other writers wait for it, and because this is what a copy
# that is killed has to do again.
_BATCH_KEYS = 200
_BATCH_BYTES = 16 * BUFFER_SIZE
# Seconds between two looks at how far the threads are.
_LOOK = 0.1


def _matching(store: AbstractReadOnlyStore, match: Match) -> Iterable[str]:
    if match is None:
        return store.query_keys()
    if callable(match):
        return (key for key in store.query_keys() if match(key))
    return store.glob(match)


class Copier(Transfer):
    """One run."""

    def __init__(self, report: CopyReport, *args: Any) -> None:
        super().__init__(*args)
        self.report = report

    def run(self, match: Match, event_manager: BaseEventManager | None) -> None:
        found = self.unless_cancelled(_matching(self.source, match))
        keys = sorted(filterfalse(self.is_targets_own, found) if self.targets_own else found)
        manager = self.target.event_manager if event_manager is None else event_manager
        if not any(
            has_listeners(manager, kind)
            for kind in (StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent)
        ):
            self.copy(keys)
            return
        with StoreProgressManager(
            manager,
            source=self.target,
            message="Comparing" if self.dry_run else "Copying",
            steps=self.total(keys),
            key="",
            metadata={},
            unit="B",
        ) as progress:
            self.progress = progress
            try:
                self.copy(keys)
            except KeyboardInterrupt:
                # It has no text of its own.
                progress.end("interrupted", "exception")
                raise
            if self.report.failed:
                progress.end(f"{len(self.report.failed)} of {len(keys)} keys failed", "warning")

    def unless_cancelled(self, keys: Iterable[str]) -> Iterator[str]:
        for key in keys:
            self.break_off()
            yield key

    def total(self, keys: list[str]) -> int:
        with self.executor() as executor:
            sizes = (
                ((key, self.size(key)) for key in self.unless_cancelled(keys))
                if executor is None
                else self.apart(executor, keys, lambda key: lambda: self.size(key))
            )
            total = 0
            for _, size in sizes:
                if size is None:
                    return -1
                total += size
        return total

    def size(self, key: str) -> int | None:
        try:
            return self.source.get(key).size
        except Exception:  # it is told of when its turn comes
            return 0

    # In the thread that calls

    def copy(self, keys: list[str]) -> None:
        with self.executor() as executor:
            try:
                if executor is None:
                    self.in_batches((key, self.fetch(key)) for key in self.unless_cancelled(keys))
                elif not self.writes_apart:
                    self.in_batches(self.apart(executor, keys, self.fetch_or_read))
                else:
                    self.one_by_one(executor, keys)
            except BaseException:
                self.broken_off = True
                raise

    @contextmanager
    def executor(self) -> Iterator[Executor | None]:
        if not (self.reads_apart or self.writes_apart):
            yield None
            return
        from ..concurrent.futures.enhanced_thread_pool_executor import EnhancedThreadPoolExecutor

        executor = EnhancedThreadPoolExecutor(self.workers, name="encore copy", wait_at_exit=False)
        try:
            yield executor
        except Exception:
            executor.shutdown()
            raise
        except BaseException:
            # Who is interrupted does not wait for a read that may take for ever.
            executor.shutdown(wait=False)
            raise
        executor.shutdown()

    def apart(
        self,
        executor: Executor,
        keys: Iterable[str],
        prepare: Callable[[str], Callable[[], Any]],
    ) -> Iterator[tuple[str, Any]]:
        """Yield keys, in their order, and what other threads returned for them.

        What they call is prepared in this thread.
        """
        from collections import deque

        rest = iter(keys)
        ahead: deque[tuple[str, Future[Any]]] = deque()
        try:
            while True:
                # Two for each, so that none waits; not more, because what was read is in memory.
                for key in islice(rest, 2 * self.workers - len(ahead)):
                    ahead.append((key, executor.submit(prepare(key))))
                if not ahead:
                    return
                key, future = ahead.popleft()
                self.wait_for(future)
                yield key, future.result()
        finally:
            for _, future in ahead:
                future.cancel()

    def wait_for(self, future: Future[Any]) -> None:
        from concurrent.futures import wait

        self.break_off()
        while not future.done():
            wait((future,), None if self.progress is None and self.cancel is None else _LOOK)
            self.break_off()
            self.show()

    def in_batches(self, fetched: Iterator[tuple[str, Any]]) -> None:
        while self.batch(fetched):
            pass

    def batch(self, fetched: Iterator[tuple[str, Any]]) -> bool:
        """Write the next few keys in one transaction; return whether there may be more."""
        written: list[str] = []
        begin = self.done
        more = True
        cancelled = None
        try:
            with self.transaction():
                count = 0
                while True:
                    try:
                        key, value = next(fetched)
                        outcome = self.store(key, value)
                    except StopIteration:
                        more = False
                        break
                    except Cancelled as error:
                        cancelled = error  # what was done before is done
                        break
                    if self.note(key, outcome):
                        written.append(key)
                    count += 1
                    if count >= _BATCH_KEYS or self.done - begin >= _BATCH_BYTES:
                        break
        except Exception as error:
            # store() lets no exception out: it is the transaction itself that could not begin or end.
            if not written:
                raise
            self.report.failed.update(dict.fromkeys(written, error))
            more = True
        else:
            self.report.copied += written
        if cancelled is not None:
            cancelled.report = self.report
            raise cancelled
        return more

    def one_by_one(self, executor: Executor, keys: list[str]) -> None:
        """Write each key for itself, in other threads."""

        finished: dict[str, Any] = {}

        def finish(key: str, value: Any) -> Any:
            finished[key] = outcome = self.store(key, value)
            return outcome

        def prepare(key: str) -> Callable[[], Any]:
            if self.reads_apart:
                return lambda: finish(key, self.fetch(key))
            value = self.fetch(key, read=True)
            return lambda: finish(key, value)

        def note(key: str, outcome: Any) -> None:
            if self.note(key, outcome):
                self.report.copied.append(key)

        outcomes = self.apart(executor, keys, prepare)
        try:
            for key, outcome in outcomes:
                del finished[key]
                note(key, outcome)
        except Cancelled as error:
            # What the threads are in the middle of is completed, or breaks off.
            executor.shutdown()
            for key in sorted(finished):
                note(key, finished[key])
            error.report = self.report
            raise

    def note(self, key: str, outcome: bool | Exception | None) -> bool:
        """Note what became of a key, except that it was written; return whether it was."""
        if isinstance(outcome, Exception):
            self.report.failed[key] = outcome
        elif outcome is False:
            self.report.skipped.append(key)
        self.done += self.bytes.pop(key, 0)
        self.show()
        return outcome is True

    def delete(self, match: Match) -> None:
        """Delete from the target what the source does not have."""
        rest = iter(sorted(self.unless_cancelled(_matching(self.target, match))))
        while keys := list(islice(rest, _BATCH_KEYS)):
            deleted: list[str] = []
            try:
                with self.transaction():
                    for key in keys:
                        self.break_off()
                        if self.delete_one(key):
                            deleted.append(key)
            except Cancelled as error:
                error.report = self.report
                raise
            except Exception as error:
                self.report.failed.update(dict.fromkeys(deleted, error))
            else:
                self.report.deleted += deleted

    def delete_one(self, key: str) -> bool:
        """Delete a key unless the source has it; return whether that was done."""
        try:
            # Asked now: what has come meanwhile stays. So does what is of the source itself, under
            # another name.
            if any(map(self.source.exists, self.names_in_source(key))):
                return False
            if not self.dry_run:
                self.target.delete(key)
        except KeyError:
            return False
        except Exception as error:
            self.report.failed[key] = error
            return False
        return True

    def transaction(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dry_run else self.target.transaction("copy_store")
