"""EnhancedThreadPoolExecutor: a pool of threads that can be prepared before they work.

The executor itself is a face. What the threads share is a `_Pool`, which knows the executor by a
weak reference alone, so that an executor nobody holds goes away like any other object and the
threads end after the work they have already been given. Every thread ends when it takes None from
the queue, and puts it back for the next one.

The threads are daemons, and a function registered with `atexit` closes the pools and joins their
threads. Other threads would be waited for by the interpreter before it runs any exit function, so
that nobody could tell the idle ones to end; the hook which the standard library has for this is
private. Work that is still running when the main thread ends therefore runs among the exit
functions: from Python 3.12 on it cannot start threads of its own there.

After a fork no thread of the parent exists in the child. The pools of the child start again from
nothing; the work that was pending belongs to the parent.
"""

from __future__ import annotations

import concurrent.futures
import os
import sys
from contextlib import ExitStack, suppress
from contextvars import copy_context
from functools import cache
from queue import Empty, SimpleQueue
from threading import RLock, Thread, current_thread
from weakref import ref

from ._fork import start_again_in_children
from .future import Future, Job, with_signature_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    class Task(Protocol):
        """What waits in a queue: one of our futures, a job for another kind, or a turn."""

        def _do(self, pool: Any, queue: Any) -> bool: ...
        def _drop(self) -> None: ...


__all__ = ["EnhancedThreadPoolExecutor"]

_new = object.__new__


class EnhancedThreadPoolExecutor(concurrent.futures.Executor):
    """An executor whose threads run a function first and another one last.

    Until there are `max_workers` threads, every submitted job starts a new one. A job sees the
    context variables as they were where it was submitted. What a job raises, SystemExit and
    KeyboardInterrupt too, is in its future, and the thread goes on.

    Dropping the last reference to an executor ends its threads after the jobs submitted so far.

    Parameters
    ----------
    max_workers : int
        How many threads there may be.
    initializer : callable, optional
        Run in every thread before its first job. If it fails, that is logged and the thread works
        all the same.
    uninitializer : callable, optional
        Run in every thread, without arguments, after its last job. A failure is logged.
    name : str, optional
        What the names of the threads start with; the name of the class if left out.
    wait_at_exit : bool
        Whether the interpreter, when it exits, waits for the jobs submitted so far. If it does not
        wait, the uninitializer is not run either.
    initargs : iterable
        The arguments of the initializer.

    Attributes
    ----------
    name : str
        What the names of the threads start with.
    wait_at_exit : bool
        As given.
    """

    _future_factory: type[concurrent.futures.Future[Any]] = Future

    def __init__(
        self,
        max_workers: int,
        initializer: Callable[..., object] | None = None,
        uninitializer: Callable[[], object] | None = None,
        name: str | None = None,
        wait_at_exit: bool = True,
        *,
        initargs: Iterable[Any] = (),
    ) -> None:
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        for function in (initializer, uninitializer):
            if function is not None and not callable(function):
                raise TypeError(f"initializer and uninitializer must be callable, not {function!r}")
        _wait_at_exit(os.getpid())
        self.name = type(self).__name__ if name is None else name
        self.wait_at_exit = wait_at_exit
        self._max_workers = max_workers
        self._threads: set[Thread] = set()
        self._pool = pool = _Pool(initializer, tuple(initargs), uninitializer)
        pool.owner = ref(self, lambda _: pool.queue.put(None))

    def __repr__(self) -> str:
        pool = self._pool
        state = "shut down" if pool.closed else f"{pool.started} of {self._max_workers} threads"
        return f"<{type(self).__name__} {self.name!r}: {state}>"

    @with_signature_of(concurrent.futures.Executor.submit)
    def submit(self, /, *call: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        put = self._pool.put
        if put is None or self._future_factory is not Future or not call:
            return self._submit(call, kwargs)
        future: Future[Any] = _new(Future)
        future._quiet = True
        future._job = (copy_context(), call, kwargs)
        put(future)
        # If the pool is still open, it was when the future was put, and a worker will come to it.
        if self._pool.put is not put and future.cancel():
            return self._submit(call, kwargs)
        return future

    def _submit(
        self, call: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> concurrent.futures.Future[Any]:
        if not call:
            raise TypeError("submit() needs a function to call")
        future = self._future_factory()
        job = (copy_context(), call, kwargs)
        task: Task
        if type(future) is Future:
            future._job = job
            task = future
        else:
            task = Job(future, job)
        pool = self._pool
        with pool.lock:
            if pool.closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if pool.started < self._max_workers:
                self._start_worker(pool)
            pool.queue.put(task)
            if pool.started >= self._max_workers:
                pool.put = pool.queue.put
        return future

    def _turns(self) -> _Pool | None:
        """Return the pool if a thread of it may do several operations in one go.

        It may if nobody can tell: there are no more threads to be started, and `submit` and the
        futures are our own.
        """
        ours = (
            type(self).submit is _OWN_SUBMIT
            and "submit" not in self.__dict__
            and self._future_factory is Future
        )
        return self._pool if ours else None

    def _start_worker(self, pool: _Pool) -> None:
        name = f"{self.name}Worker-{len(self._threads) + 1}"
        thread = Thread(target=pool.work, name=name, daemon=True)
        if self.wait_at_exit:
            _wait_at_exit(os.getpid())
            _waited_for[thread] = pool
        try:
            thread.start()
        except RuntimeError:
            _waited_for.pop(thread, None)
            if not pool.started:
                raise
            # no more threads to be had: those that run will do the work
        finally:
            if thread.is_alive():  # start() waits for it, and may be interrupted then
                pool.started += 1
                self._threads.add(thread)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pool = self._pool
        dropped = pool.close(drop=cancel_futures)
        with ExitStack() as rest:  # whatever the callbacks of one raise, it is the next one's turn
            for task in reversed(dropped):
                rest.callback(task._drop)
        if wait:
            for thread in self._threads.copy():
                if thread is not current_thread():
                    thread.join()


_OWN_SUBMIT = EnhancedThreadPoolExecutor.submit


class _Pool:
    """The queue of an executor, and what its threads do with it."""

    owner: ref[EnhancedThreadPoolExecutor]

    def __init__(
        self,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        uninitializer: Callable[[], object] | None,
    ) -> None:
        self.initializer = initializer
        self.initargs = initargs
        self.uninitializer = uninitializer
        self.closed = False
        self._set_up()
        start_again_in_children(self)

    def _start_again(self) -> None:
        """In a forked child: forget the threads and their work."""
        _waited_for.clear()
        self._set_up()

    def _set_up(self) -> None:
        self.lock = RLock()  # re-entrant, because a finalizer may submit at any point
        self.queue: SimpleQueue[Task | None] = SimpleQueue()
        self.started = 0
        # The way in as long as the pool is open and needs no more threads.
        self.put: Callable[[Task], object] | None = None

    def close(self, *, drop: bool = False) -> list[Task]:
        """Let the threads end after the work there is, or without it; return what was dropped."""
        dropped = []
        with self.lock:
            self.closed = True
            self.put = None  # before anything is taken out, see submit()
            while drop:
                try:
                    task = self.queue.get_nowait()
                except Empty:
                    break
                if task is not None:
                    dropped.append(task)
            self.queue.put(None)
        return dropped

    def work(self) -> None:
        queue = self.queue
        if self.initializer is not None:
            self.run_logged(self.initializer, *self.initargs)
        get = queue.get
        while (task := get()) is not None:
            alive = task._do(self, queue)
            del task
            # A job that forked and returned in the child too finds another queue in place: there
            # is nobody in the child to give its result to, so the copy of the thread ends, and
            # with it the child.
            if not alive:
                return
        queue.put(None)
        if self.uninitializer is not None:
            self.run_logged(self.uninitializer)
        _waited_for.pop(current_thread(), None)

    def run_logged(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except BaseException:
            self.log("%r failed in %s", function, current_thread().name)

    @staticmethod
    def log(message: str, *args: object) -> None:
        import logging

        # A handler that raises must not end the thread: the executor counts on it.
        with suppress(BaseException):
            logging.getLogger(__name__).exception(message, *args)


_waited_for: dict[Thread, _Pool] = {}


@cache
def _wait_at_exit(pid: int) -> None:
    """Have the end of this process wait for the work."""
    import atexit

    atexit.register(_wait_for_work)
    # A child that multiprocessing has forked runs no exit functions before Python 3.13, and forgets
    # the parent's.
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        # Before the queues close (10), in which the work may put something.
        Finalize(None, _wait_for_work, exitpriority=100)


def _wait_for_work() -> None:
    while waited_for := _waited_for.copy():
        for pool in set(waited_for.values()):
            pool.close()
        for thread in waited_for:
            if thread.is_alive():  # not if it could not be started
                thread.join()
            _waited_for.pop(thread, None)
