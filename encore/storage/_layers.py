"""The base of stores made of layers.

Everything is written into the first layer. A key that only a lower one holds comes up when its
metadata or its data alone are set: the other half is brought along, in one change of the pair.

Moments in which more than one layer counts are kept apart by the first layer's transaction, where
it has any: of writers through composites one comes after the other. No stream of a caller is read
in there: it is copied before.
"""

from __future__ import annotations

from ._changes import Change, ChangeTeller, Condition
from ._copies import Copy
from ._keys import check_key
from ._layer_changes import NOBODY, LayersContext, Note, Pending, leaf_of
from ._layers_reading import ReadingLayers
from ._metadata import normalise
from ._reading_wrapper import _FOLLOWS as _READING
from ._reading_wrapper import derive
from ._streams import BUFFER_SIZE, check_buffer_size, check_readable
from .abstract_store import AbstractReadOnlyStore, AbstractStore
from .errors import PreconditionError, StoreError
from .events import StoreEvent
from .value import Value, check_value
from .wrapper_store import _FOLLOWS as _WRITING
from .wrapper_store import Unheard, WrapperStore, open_value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from typing import Any

    from ._streams import Readable
    from .wrapper_store import Changing

    Metadata = dict[str, Any]
    Found = tuple[AbstractReadOnlyStore, Value]

__all__ = ["LayeredStore"]


class LayeredStore(ReadingLayers):
    """A store made of layers, of which the first is written to."""

    #: Whether a key can go from the first layer into a lower one.
    _sinks = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        derive(cls, LayeredStore, AbstractReadOnlyStore, _READING)
        derive(cls, LayeredStore, AbstractStore, _WRITING)

    # Writing

    # These do not follow from others that are overridden: all that is different is in _write().

    def set_data(
        self,
        key: str,
        data: Readable,
        buffer_size: int = BUFFER_SIZE,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        WrapperStore.set_data(
            self, key, data, buffer_size, if_match=if_match, if_none_match=if_none_match
        )

    def set_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        WrapperStore.set_metadata(
            self, key, metadata, if_match=if_match, if_none_match=if_none_match
        )

    def update_metadata(
        self,
        key: str,
        metadata: Metadata,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> None:
        WrapperStore.update_metadata(
            self, key, metadata, if_match=if_match, if_none_match=if_none_match
        )

    def _write(
        self, call: Changing, method: str, key: str, /, *args: Any, **conditions: Any
    ) -> None:
        if method == "set" and not conditions:
            # The lower layers do not matter, but for what it is called, and since when it is there.
            _check_arguments(method, args)
            self._set_first(call, key, self._created_below(key), *args)
            return
        key = check_key(key)
        _check_arguments(method, args)
        condition = Condition.of(conditions.get("if_match"), conditions.get("if_none_match"))
        if method == "delete":
            self._delete(call, key, condition, conditions)
        elif condition is None and not self._sinks and self._is_plain(key):
            self._in_first(call, method, key, *args)
        else:
            self._write_above(call, method, key, args, condition, conditions)

    def _is_plain(self, key: str) -> bool:
        """Whether a change of a key that nothing takes down concerns the first layer alone."""
        return self.store.exists(key) or not self._lies_below(key)

    def _in_first(
        self, call: Changing, method: str, key: str, *args: Any, **conditions: Any
    ) -> None:
        """Call a method of the first layer that changes a key."""
        self._in_layer(call, self.store, method, key, *args, **conditions)

    def _set_first(
        self, call: Changing, key: str, created: float | None, *args: Any, **conditions: Any
    ) -> None:
        """Set a key in the first layer, which came to be then if it is new there."""
        if created is None and isinstance(call, Unheard):
            call.on(self.store, "set", key, *args, **conditions)
            return
        leaf = leaf_of(self.store)
        if created is None or not isinstance(leaf, ChangeTeller):
            self._in_first(call, "set", key, *args, **conditions)
            return
        leaf._state.created = created
        try:
            self._in_first(call, "set", key, *args, **conditions)
        finally:
            leaf._state.created = None

    def _created_below(self, key: str) -> float | None:
        """Return since when a lower layer has a key that the first has not, if that can be told."""
        if self.store.exists(key):
            return None
        try:
            value: Value = self._below("get", key)
        except (KeyError, StoreError):
            # It is no reason not to write that another store is out of reach.
            return None
        return value.created

    def _in_layer(
        self,
        call: Changing,
        layer: AbstractReadOnlyStore,
        method: str,
        key: str,
        *args: Any,
        **conditions: Any,
    ) -> None:
        if not isinstance(layer, AbstractStore):
            raise StoreError(f"{layer!r} can only be read", key=key)
        note = Note(self, call, key)
        self._call(note, layer, method, key, *args, **conditions)  # type: ignore[arg-type]
        note.wait()

    def _alone(self, notes: str) -> AbstractContextManager[Any]:
        """Return what keeps other writers through composites over the first layer away."""
        assert isinstance(self.store, AbstractStore)
        return self.store.transaction(notes)

    def _check_writable(self, key: str) -> None:
        if not _is_writable(self.store):
            raise StoreError(f"{self.store!r} can only be read", key=key)

    def _find(self, key: str) -> Found | None:
        """Return the highest layer that holds a key, and the value."""
        for layer in self._layers():
            try:
                return layer, layer.get(key)
            except KeyError:
                pass
        return None

    def _write_above(
        self,
        call: Changing,
        method: str,
        key: str,
        args: tuple[Any, ...],
        condition: Condition | None,
        conditions: dict[str, Any],
    ) -> None:
        """Write what may depend on a lower layer."""
        self._check_writable(key)
        # Asked again when it counts; but a stream should not be used up for nothing.
        if condition is not None:
            _check(condition, key, self._find(key))
        else:
            self.store.exists(key)
        with Copy(key) as copy:
            if method == "set":
                with open_value(args[0]) as (stream, metadata, _):
                    copy.take(stream, args[1])
                    args = (metadata, args[1])
            elif method == "set_data":
                copy.take(args[0], args[1])
                args = (None, args[1])
            while not self._try_above(call, method, key, args, condition, conditions, copy):
                pass

    def _try_above(
        self,
        call: Changing,
        method: str,
        key: str,
        args: tuple[Any, ...],
        condition: Condition | None,
        conditions: dict[str, Any],
        copy: Copy,
    ) -> bool:
        """Write what is ready to be written; False if the layers have changed meanwhile."""
        brings_data = method in ("set_metadata", "update_metadata")
        expected = self._find(key) if brings_data else None
        if brings_data and expected is not None and expected[0] is not self.store:
            with expected[1].data as stream:
                copy.take(stream, BUFFER_SIZE)
        with self._alone(method):
            found = self._find(key)
            if condition is not None:
                _check(condition, key, found)
            if found is None or found[0] is self.store:
                if method == "set":
                    args = ((copy.stream(), args[0]), args[1])
                elif method == "set_data":
                    args = (copy.stream(), args[1])
                self._in_first(call, method, key, *args, **conditions)
                return True
            if brings_data and _facts(found) != _facts(expected):
                return False
            metadata = args[0]
            if method == "set_data":
                metadata = found[1].metadata
            elif method == "update_metadata":
                metadata = {**found[1].metadata, **normalise(metadata)}
            buffer_size = BUFFER_SIZE if brings_data else args[1]
            # The first layer may have no transactions and be conditional all the same.
            new = {"if_none_match": "*"} if self.info()["conditional"] else {}
            try:
                pair = copy.stream(), metadata
                self._set_first(call, key, found[1].created, pair, buffer_size, **new)
            except PreconditionError:
                if condition is not None:
                    raise
                return False
            return True

    # Deleting

    def _delete(
        self,
        call: Changing,
        key: str,
        condition: Condition | None,
        conditions: dict[str, Any],
    ) -> None:
        self._check_writable(key)
        holders = self._holders(key)
        if not self._lower or self._depth() or any(map(self._shares_lock, holders)):
            self._delete_copies(call, key, holders, condition, conditions)
            return
        from contextlib import ExitStack

        with ExitStack() as stack:
            if not self._sinks:
                # Lower layers tell what they do when the first layer's lock is free again.
                for layer in holders:
                    if layer is not self.store:
                        stack.enter_context(layer.event_manager.held(StoreEvent))
            stack.enter_context(self._alone("delete"))
            self._delete_copies(call, key, self._holders(key), condition, conditions)

    def _delete_copies(
        self,
        call: Changing,
        key: str,
        holders: list[AbstractReadOnlyStore],
        condition: Condition | None,
        conditions: dict[str, Any],
    ) -> None:
        if condition is not None:
            _check(condition, key, self._find(key))
        if not holders:
            raise KeyError(key)
        self._check_deletable(key, holders)
        lower = [layer for layer in holders if layer is not self.store]
        if lower and self._depth():
            self._join(key, lower)
        # From the bottom to the top: whatever comes in between, nothing changes that can be seen.
        for layer in reversed(holders[1:]):
            try:
                self._call(NOBODY, layer, "delete", key)  # type: ignore[arg-type]
            except KeyError:
                pass
        top = holders[0]
        if conditions and top is not self.store and not top.info().get("conditional"):
            conditions = {}
        self._in_layer(call, top, "delete", key, **conditions)

    def _holders(self, key: str) -> list[AbstractReadOnlyStore]:
        """Return the layers that hold a key, from the top to the bottom."""
        return [layer for layer in self._layers() if layer.exists(key)]

    def _check_deletable(self, key: str, holders: list[AbstractReadOnlyStore]) -> None:
        """Raise StoreError if one of these layers cannot be written."""
        for layer in holders:
            if not _is_writable(layer):
                raise StoreError(
                    f"{key!r} cannot be deleted: {layer!r} holds it too, and can only be read",
                    key=key,
                )

    def move(self, source: str, target: str) -> None:
        key = check_key(source)
        if key != check_key(target):
            # Refused before the target is written, where there are no transactions.
            holders = self._holders(key)
            if holders:
                self._check_deletable(key, holders)
            if not self._depth() and not all(map(self._can_join, holders)):
                self.set(target, self.get(key))
                self.delete(key)
                return
            if holders and holders[0] is not self.store:
                with self.transaction("move"):
                    AbstractStore.move(self, source, target)
                    unit = self._state.unit
                    for (context, _), _ in () if unit is None else unit.marks:
                        context.has_moved = True
                return
        AbstractStore.move(self, source, target)

    # Transactions

    def _context(self, notes: str) -> LayersContext:
        assert isinstance(self.store, AbstractStore)
        return LayersContext(self.store, notes)

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any
    ) -> None:
        unit = self._state.unit
        try:
            super()._leave(kind, error, traceback)
        except BaseException:
            # One layer may have committed before another one failed.
            if unit is not None and not unit.marks:
                for change in unit.changes:
                    if isinstance(change, Pending):
                        self._tell(change)
            raise

    def _join(self, key: str, layers: Iterable[AbstractReadOnlyStore]) -> None:
        """Have layers take part in all transactions that this thread is in."""
        joining: list[AbstractStore] = []
        for layer in layers:
            if not self._can_join(layer):
                raise StoreError(
                    f"{key!r} cannot be deleted inside a transaction: {layer!r} holds it too, and "
                    "cannot take part",
                    key=key,
                )
            assert isinstance(layer, AbstractStore)
            joining.append(layer)
        unit = self._state.unit
        assert unit is not None
        for layer in joining:
            for (context, _), _ in unit.marks:
                context.join(layer)

    def _can_join(self, layer: AbstractReadOnlyStore) -> bool:
        return bool(
            layer is self.store
            or (layer.info().get("transactional") and not self._shares_lock(layer))
        )

    def _shares_lock(self, layer: AbstractReadOnlyStore) -> bool:
        """Whether nothing can be written to a layer while the first is in a transaction.

        Two tables of one database, for example.
        """
        if leaf_of(layer) is leaf_of(self.store):
            return False
        place = layer.info().get("location")
        return place not in (None, ":memory:") and place == self.store.info().get("location")

    # Telling changes

    def _tell(self, change: Change) -> None:
        if isinstance(change, Pending):
            if not change.done:
                return
            change = Change(change.kind, change.key, change.metadata, change.observer)
        super()._tell(change)


def _is_writable(store: AbstractReadOnlyStore) -> bool:
    return isinstance(store, AbstractStore) and not store.info().get("readonly", False)


def _check_arguments(method: str, args: tuple[Any, ...]) -> None:
    if method in ("set", "set_data"):
        check_buffer_size(args[1])
    if method == "set":
        if not isinstance(args[0], Value):
            normalise(check_value(args[0])[1])
    elif method == "set_data":
        check_readable(args[0])
    elif method != "delete":
        normalise(args[0])


def _check(condition: Condition, key: str, found: Found | None) -> None:
    # All that is looked at is the etag.
    condition.check(key, None if found is None else found[1])  # type: ignore[arg-type]


def _facts(found: Found | None) -> tuple[Any, ...] | None:
    """Return what tells whether a value is still the same one."""
    if found is None:
        return None
    layer, value = found
    return id(layer), value.etag, value.created, value.modified, value.size
