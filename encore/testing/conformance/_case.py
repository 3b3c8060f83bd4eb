"""What all checks share: the hooks that a test class fills in, and the ways to look at a store."""

from __future__ import annotations

import io
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import SkipTest

from ...events.abstract_event_manager import BaseEvent
from ...events.event_manager import EventManager
from ...storage.events import (
    StoreModificationEvent,
    StoreProgressEvent,
    StoreTransactionEvent,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import NoReturn
    from unittest import TestCase as _Case

    Contents = Mapping[str, tuple[bytes, dict[str, Any]]]
else:
    _Case = object

T = TypeVar("T")


class StoreCase(_Case):
    """The base of all mixins: hooks to override, and helpers.

    Every failure says which sentence of the contract is broken: the docstring of the check.
    """

    #: Seconds after which a store that does not answer has failed the check.
    patience = 20.0

    manager: EventManager
    store: Any

    # Hooks

    def make_store(self, event_manager: EventManager) -> Any:
        """Return a new, empty store, connected or not, whose events go to `event_manager`."""
        raise NotImplementedError(f"{type(self).__name__} must define make_store(event_manager)")

    def make_handle(self, store: Any) -> Any:
        """Return another handle on the data of `store`, connected or not; None if there can be
        none."""
        return None

    def process_store(self, store: Any) -> Any:
        """Return what can be pickled to give another process a handle on the data; None if nothing.

        The default is the store itself, if it is not lost with the process.
        """
        return None if self.info["durable"] == "none" else store

    def make_relative_store(self, event_manager: EventManager) -> Any:
        """Return a new store whose place was given as a relative path; None if it has no path."""
        return None

    def leftovers(self, store: Any) -> int | None:
        """Return how many files (rows, objects) there are where the store keeps its data, its own
        included."""
        return None

    def damage(self, store: Any, key: str) -> bool:
        """Damage the stored metadata of a key behind the store's back; False if that cannot be
        done."""
        return False

    def failing_commit(self, store: Any) -> AbstractContextManager[object] | None:
        """Return a context manager in which commits raise OSError or StoreError; None if there is
        none."""
        return None

    # Set up

    def setUp(self) -> None:
        super().setUp()
        self.manager = EventManager()
        self.prepare()

    def prepare(self) -> None:
        self.store = self.opened(self.make_store(self.manager))

    def opened(self, store: Any) -> Any:
        """Connect a store, until the end of the check."""
        self.addCleanup(store.disconnect)
        if store.event_manager is not self.manager:
            store.event_manager = self.manager
        if not store.is_connected():
            store.connect()
        return store

    @property
    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.store.info()
        return info

    def need(self, capability: str) -> None:
        """Skip the check where ``info()`` says that the store cannot do it."""
        if not self.info[capability]:
            self.skipTest(f"info()[{capability!r}] is {self.info[capability]!r}")

    def another(self) -> Any:
        """Return a second handle on the data, connected; skip where there is none."""
        handle = self.make_handle(self.store)
        if handle is None:
            self.skipTest("make_handle() gives no second handle on this store")
        return self.opened(handle)

    def shared(self) -> Any:
        """Return what can be pickled for another process; skip where there is nothing."""
        store = self.process_store(self.store)
        if store is None:
            self.skipTest("process_store() gives nothing that another process could open")
        return store

    def fill(self, contents: Contents) -> Any:
        """Return a connected store that holds `contents`."""
        self.store.multiset(list(contents), [(io.BytesIO(d), m) for d, m in contents.values()])
        return self.store

    def expected_metadata(
        self, key: str, data: bytes, metadata: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Return what a filled store shows as metadata; None if that is the store's own
        business."""
        return metadata

    # Failures

    def _formatMessage(self, msg: Any, standardMsg: str) -> str:
        return self._with_promise(super()._formatMessage(msg, standardMsg))

    def _with_promise(self, message: str) -> str:
        promise = getattr(type(self), self._testMethodName).__doc__
        return f"{message}\nThe contract: {' '.join(promise.split())}" if promise else message

    def _callTestMethod(self, method: Callable[[], object]) -> None:
        """Run a check; what the store raises in the middle of it breaks a sentence too."""
        try:
            super()._callTestMethod(method)  # type: ignore[misc]
        except (SkipTest, self.failureException):
            raise
        except Exception as error:
            if type(error).__module__.partition(".")[0] == "unittest":
                raise
            message = f"it raised {type(error).__name__}: {error}"
            raise self.failureException(self._with_promise(message)) from error

    def refused(
        self,
        errors: type[BaseException] | tuple[type[BaseException], ...],
        call: Callable[..., object],
        *args: Any,
        **kwargs: Any,
    ) -> BaseException:
        """Check that a call raises one of `errors`, and return the error."""
        try:
            call(*args, **kwargs)
        except errors as error:
            return error
        except Exception as error:
            what = f"raised {error!r}, not {errors}"
            self.fail(self._formatMessage(None, f"{_shown(call, args, kwargs)} {what}"))
        what = f"did not raise {errors}"
        return self.fail(self._formatMessage(None, f"{_shown(call, args, kwargs)} {what}"))

    def missing(self, key: str, call: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        """Check that a call raises KeyError with `key`."""
        error = self.refused(KeyError, call, *args, **kwargs)
        self.assertEqual(
            error.args[:1], (key,), f"{_shown(call, args, kwargs)}: KeyError with the key as given"
        )

    # Looking and writing

    def put(self, key: str, data: bytes = b"", /, **metadata: Any) -> None:
        self.store.set(key, (io.BytesIO(data), metadata))

    def pair(self, key: str, store: Any = None) -> tuple[bytes, dict[str, Any]]:
        value = (self.store if store is None else store).get(key)
        with value.data as stream:
            return stream.read(), value.metadata

    def check_pair(
        self, key: str, data: bytes, metadata: dict[str, Any], store: Any = None
    ) -> None:
        self.assertEqual(self.pair(key, store), (data, metadata), f"data and metadata of {key!r}")

    def state(self, store: Any = None) -> dict[str, Any]:
        """Return everything that can be seen of a store."""
        store = self.store if store is None else store
        state = {}
        for key in store.query_keys():
            value = store.get(key)
            with value.data as stream:
                data = stream.read()
            state[key] = (
                data,
                value.metadata,
                value.size,
                value.created,
                value.modified,
                value.etag,
            )
        return state

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Check that the block changes nothing that can be seen, and that no change is told."""
        before = self.state()
        with self.recorded(StoreModificationEvent) as events:
            yield
        self.assertEqual(self.state(), before, "nothing is changed by what fails")
        self.assertEqual(told(events), [], "a change that failed has no event")

    # Events

    @contextmanager
    def recorded(self, *kinds: type[BaseEvent]) -> Iterator[list[Any]]:
        """Collect events of these classes, by default all events of stores."""
        events: list[Any] = []

        def listener(event: BaseEvent) -> None:
            events.append(event)

        kinds = kinds or (StoreModificationEvent, StoreTransactionEvent, StoreProgressEvent)
        for kind in kinds:
            self.manager.connect(kind, listener)
        try:
            yield events
        finally:
            for kind in kinds:
                self.manager.disconnect(kind, listener)

    @contextmanager
    def listening(self, kind: type[BaseEvent], listener: Callable[[Any], object]) -> Iterator[None]:
        self.manager.connect(kind, listener)
        try:
            yield
        finally:
            self.manager.disconnect(kind, listener)

    # Threads

    def in_threads(self, *functions: Callable[[], T]) -> list[T]:
        """Call functions at the same time, each in a thread of its own; return the results."""
        barrier = threading.Barrier(len(functions))
        results: list[Any] = [None] * len(functions)
        errors: list[BaseException] = []

        def run(number: int) -> None:
            try:
                barrier.wait(self.patience)
                results[number] = functions[number]()
            except BaseException as error:
                errors.append(error)

        threads = [
            threading.Thread(target=run, args=(number,), daemon=True)
            for number in range(len(functions))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(self.patience)
        if errors:
            raise errors[0]
        if any(thread.is_alive() for thread in threads):
            self.fail(f"the store does not answer within {self.patience:g} s")
        return results

    def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Return what a function returns in another thread."""
        return self.in_threads(lambda: function(*args))[0]

    def await_event(self, event: threading.Event) -> None:
        self.assertTrue(event.wait(self.patience), f"waited {self.patience:g} s in vain")


def told(events: Iterable[Any]) -> list[tuple[str, str]]:
    """Return class name and key of modification events."""
    return [
        (type(event).__name__, event.key)
        for event in events
        if isinstance(event, StoreModificationEvent)
    ]


def _shown(call: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    words = [_short(arg) for arg in args] + [
        f"{name}={_short(arg)}" for name, arg in kwargs.items()
    ]
    return f"{getattr(call, '__name__', call)}({', '.join(words)})"


def _short(value: object) -> str:
    try:
        return f"{value!r:.60}"
    except RecursionError:
        return "<nested deeply>"


# No stream gives everything to who asks for a buffer.
_NO_SIZE = -(2**62)


def _check_size(size: int) -> None:
    if size == _NO_SIZE:
        raise TypeError("read() without a size: a stream is anything with read(n), called with n")


class Failure(Exception):
    """What a caller's stream raises."""


class Interrupt(BaseException):
    """What a caller's stream raises, if it is no Exception."""


class Trickle:
    """A stream that has ``read(n)`` and nothing else.

    Parameters
    ----------
    data : bytes
    chunk : int, optional
        The most that one read gives.
    fail_after : int, optional
        Raise `error` when so many bytes have been read.
    """

    def __init__(
        self,
        data: bytes,
        chunk: int | None = None,
        fail_after: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.data = data
        self.chunk = chunk
        self.fail_after = fail_after
        self.error = error
        self.position = 0
        self.asked: list[Any] = []

    def read(self, size: int = _NO_SIZE, /) -> bytes:
        _check_size(size)
        self.asked.append(size)
        if (
            self.error is not None
            and self.fail_after is not None
            and self.position >= self.fail_after
        ):
            raise self.error
        count = min(size, self.chunk or size)
        if self.error is not None and self.fail_after is not None:
            count = min(count, self.fail_after - self.position)
        piece = self.data[self.position : self.position + count]
        self.position += len(piece)
        return piece


class Answers:
    """A stream whose reads give these answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def read(self, size: int = _NO_SIZE, /) -> Any:
        _check_size(size)
        return self.answers.pop(0) if self.answers else b""


class Closed:
    """A stream that must not be touched."""

    def read(self, size: int = _NO_SIZE, /) -> NoReturn:
        raise AssertionError("the stream was read before the arguments were checked")
