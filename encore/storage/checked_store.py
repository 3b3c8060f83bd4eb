"""A store that notices when data are not what was stored."""

from __future__ import annotations

from ._changes import Condition
from ._checked_value import CheckedValue
from ._copies import Copy
from ._digests import RESERVED, algorithms, digests_of, inner_name, inner_of, new_hash, outer_of
from ._keys import check_key
from ._metadata import check_names, normalise
from ._progress import StoreProgressManager, progress_wanted
from ._streams import check_buffer_size, check_readable
from ._transactions import DummyTransactionContext
from .abstract_store import AbstractStore
from .errors import PreconditionError, StoreError, shown
from .maintenance import Finding
from .value import Value, check_value
from .wrapper_store import WrapperStore, metadata_of, open_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any, BinaryIO

    from ..events.abstract_event_manager import BaseEventManager
    from ._changes import Change
    from .abstract_store import AbstractReadOnlyStore
    from .wrapper_store import Changing

    Metadata = dict[str, Any]

__all__ = ["CheckedStore"]


class CheckedStore(WrapperStore):
    """A store that keeps a digest with each value, and verifies it whenever the data are read to their end.

    Whatever reads all data raises IntegrityError, with the key, where they are not those that were
    stored: ``to_bytes``, ``to_file`` (which then keeps the old file), ``iterdata``, and a stream that
    is read from its beginning to its end, by the last of these reads at the latest. What has been
    read before may be damaged, and parts of the data (``range``, ``get_data_range``) are not
    verified. A value that was written around this store has no digest and is not verified either;
    verify() tells which these are, and ``store.set(key, store.get(key))`` gives one a digest.

    Parameters
    ----------
    store : AbstractReadOnlyStore
        Connected by connect() if it is not, and then disconnected by disconnect().
    algorithm : str
        For what is written from now on: one of ``hashlib.algorithms_guaranteed`` whose digests have
        one size. Each value is verified by the algorithm that it was written with.
    event_manager : BaseEventManager, optional

    Raises
    ------
    ValueError
        If there is no such algorithm.

    Notes
    -----
    A digest is a guard against accidents, not against somebody who can write to the inner store. It
    is that of the data alone: metadata are not verified, nor that a value is under the key that it
    was stored under. Two values that have changed places, each with its digest, are both well.

    What is stored is read to its end before the inner store is given any of it: the first 1 MiB
    wait in memory, more in a temporary file. Only a value of a CheckedStore, which has its digest
    already, goes straight through, and is verified on its way.
    """

    def __init__(
        self,
        store: AbstractReadOnlyStore,
        algorithm: str = "sha256",
        *,
        event_manager: BaseEventManager | None = None,
    ) -> None:
        if not isinstance(algorithm, str):
            raise TypeError(f"an algorithm is a str, not {shown(algorithm)}")
        if algorithm not in algorithms():
            raise ValueError(
                f"the algorithm is one of {', '.join(sorted(algorithms()))}, not {algorithm!r:.80}"
            )
        super().__init__(store, event_manager=event_manager)
        self.algorithm = algorithm

    def __repr__(self) -> str:
        return f"CheckedStore({self.store!r}, {self.algorithm!r})"

    # Reading

    def get(self, key: str) -> Value:
        return CheckedValue(key, self.store.get(key))

    def get_data_range(
        self, key: str, start: int | None = None, end: int | None = None
    ) -> BinaryIO:
        return self.store.get_data_range(key, start, end)

    def get_metadata(self, key: str, select: Iterable[str] | None = None) -> Metadata:
        names = check_names(select)
        if names is not None:
            names = list(map(inner_name, names))
        return outer_of(self.store.get_metadata(key, names))

    def exists(self, key: str) -> bool:
        return self.store.exists(key)

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Metadata]]:
        names = check_names(select)
        if names is not None:
            names = list(map(inner_name, names))
        found = super().query(names, where=_inner_criteria(where), **inner_of(kwargs))
        return ((key, outer_of(metadata)) for key, metadata in found)

    def query_keys(
        self, /, *, where: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> Iterator[str]:
        return super().query_keys(where=_inner_criteria(where), **inner_of(kwargs))

    def glob(self, pattern: str) -> Iterator[str]:
        return self.store.glob(pattern)

    def keys(
        self, prefix: str = "", start_after: str | None = None, limit: int | None = None
    ) -> Iterator[str]:
        return self.store.keys(prefix, start_after, limit)

    # Looking for damage

    def check(self) -> list[Finding]:
        findings = self.store.check()
        known = {finding.key for finding in findings}
        return findings + [finding for finding in self.verify() if finding.key not in known]

    def verify(self, prefix: str = "") -> list[Finding]:
        """Read all data and compare them with their digests.

        Keys that are gone it cannot notice: check() asks the inner store, which may.

        Parameters
        ----------
        prefix : str
            Only keys that begin with this.

        Returns
        -------
        list of Finding
            Keys whose data are not those that were stored, or cannot be read; and keys without a
            digest, of which nothing can be said.

        Events
        ------
        StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent for the whole, in
        bytes, with an empty `key`
        """
        keys: Iterable[str] = self.keys(prefix)
        manager = self.event_manager
        if not progress_wanted(manager):
            return self._verify(keys, None)
        keys = list(keys)
        sizes = [self._size_of(key) for key in keys]
        with StoreProgressManager(
            manager,
            source=self,
            message="Verifying",
            steps=-1 if None in sizes else sum(filter(None, sizes)),
            key="",
            metadata={},
            unit="B",
        ) as progress:
            findings = self._verify(keys, progress)
            if findings:
                progress.end(f"{len(findings)} of {len(keys)} keys are not well", "warning")
        return findings

    def _size_of(self, key: str) -> int | None:
        try:
            return self.store.get(key).size
        except (KeyError, StoreError):  # told of when its turn comes
            return 0

    def _verify(self, keys: Iterable[str], progress: Callable[..., object] | None) -> list[Finding]:
        findings = []
        done = 0
        for key in keys:
            try:
                value = CheckedValue(key, self.store.get(key))
                size = 0
                for buffer in value.iterdata():
                    size += len(buffer)
                    if progress is not None:
                        progress(step=done + size)
                done += size
                if not value.digests:
                    findings.append(Finding(key, "there is no digest"))
            except KeyError:
                # It is gone meanwhile.
                continue
            except StoreError as error:
                # The key is told once.
                problem = str(error).replace(f"the data of {key!r} are", "the data are", 1)
                findings.append(Finding(key, problem))
        return findings

    # Writing

    def _write(
        self, call: Changing, method: str, key: str, /, *args: Any, **conditions: Any
    ) -> None:
        if method == "delete" or not isinstance(self.store, AbstractStore):
            call(method, key, *args, **conditions)
            return
        key = check_key(key)
        if method in ("set", "set_data"):
            given, buffer_size = args
            check_buffer_size(buffer_size)
            self._write_data(call, method, key, given, buffer_size, conditions)
            return
        metadata = inner_of(normalise(args[0]))
        if method == "update_metadata":
            call(method, key, metadata, **conditions)
            return
        Condition.of(conditions.get("if_match"), conditions.get("if_none_match"))

        def write(old: Metadata | None, conditions: dict[str, Any]) -> None:
            kept = self._digest(new_hash(self.algorithm)) if old is None else digests_of(old)
            call(method, key, {**metadata, **kept}, **conditions)

        self._based_on_metadata(key, conditions, write)

    def _write_data(
        self,
        call: Changing,
        method: str,
        key: str,
        given: Any,
        buffer_size: int,
        conditions: dict[str, Any],
    ) -> None:
        """Do what set() does, or set_data()."""
        condition = Condition.of(conditions.get("if_match"), conditions.get("if_none_match"))
        if method == "set_data":
            check_readable(given)
            self._check_before_reading(key, condition)
            hash = new_hash(self.algorithm)
            with Copy(key) as copy:
                copy.take(given, buffer_size, hash)

                def write(old: Metadata | None, conditions: dict[str, Any]) -> None:
                    kept = {} if old is None else inner_of(outer_of(old))
                    metadata = {**kept, **self._digest(hash)}
                    call("set", key, (copy.stream(), metadata), buffer_size, **conditions)

                self._based_on_metadata(key, conditions, write)
            return
        if type(given) is CheckedValue and given.digests.keys() == {RESERVED + self.algorithm}:
            self._check_before_reading(key, condition)
            call("set", key, given.with_digests(), buffer_size, **conditions)
            return
        if not isinstance(given, Value):
            # Refused before the store is asked.
            source, metadata = check_value(given)
            given = source, normalise(metadata)
        self._check_before_reading(key, condition)
        with open_value(given) as (stream, metadata, _):
            metadata = inner_of(normalise(metadata))
            hash = new_hash(self.algorithm)
            with Copy(key) as copy:
                copy.take(stream, buffer_size, hash)
                metadata.update(self._digest(hash))
                call("set", key, (copy.stream(), metadata), buffer_size, **conditions)

    def _digest(self, hash: Any) -> Metadata:
        return {RESERVED + self.algorithm: hash.hexdigest()}

    def _check_before_reading(self, key: str, condition: Condition | None) -> None:
        """Raise what the inner store would, were it asked now, so that no stream is used up for nothing."""
        store = self.store
        if condition is None:
            # Not for the answer: the store may not be connected, or have no such keys.
            store.exists(key)
        elif condition.etag is None:
            if store.exists(key):
                raise PreconditionError(f"{key!r} is there already", key=key)
        else:
            try:
                head: Any = store.get(key)
            except KeyError:
                head = None
            condition.check(key, head)

    def _based_on_metadata(
        self,
        key: str,
        conditions: dict[str, Any],
        write: Callable[[Metadata | None, dict[str, Any]], None],
    ) -> None:
        """Call a function with the inner metadata of a key, None if it is new, and see to it that
        nobody changes them before it has written."""
        store = self.store
        assert isinstance(store, AbstractStore)
        if "if_none_match" in conditions:
            write(None, conditions)
            return
        context = store.transaction("with digest")
        if type(context) is not DummyTransactionContext:
            with context:
                write(metadata_of(store, key), conditions)
            return
        if not store.info().get("conditional"):
            write(metadata_of(store, key), conditions)
            return
        while True:
            own: dict[str, Any] = {"if_none_match": "*"}
            metadata = None
            try:
                value = store.get(key)
            except KeyError:
                pass
            else:
                metadata = value.metadata
                own = {} if value.etag is None else {"if_match": value.etag}
            if conditions:
                # It holds only for the metadata that it was made for.
                write(metadata, conditions)
                return
            try:
                write(metadata, own)
                return
            except PreconditionError:
                # Somebody else was faster, and so there has been progress.
                continue

    def _translate(self, change: Change) -> Change | None:
        return change._replace(metadata=outer_of(change.metadata))


def _inner_criteria(where: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    from _collections_abc import Mapping

    # Anything else is refused by the inner store.
    return inner_of(where) if isinstance(where, Mapping) else where
