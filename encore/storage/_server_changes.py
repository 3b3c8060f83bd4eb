"""Writing to a store on behalf of a client, and what the client is told of that.

The store itself tells whether a key was new, and which metadata the event of the change shows. One
that cannot, because it was written for EnCore 0.8, is looked at before and after.
"""

from __future__ import annotations

from ._changes import ChangeTeller
from ._etags import format_etag
from ._server_responses import NOT_KEPT, Response, json_response
from .events import StoreSetEvent
from .wrapper_store import metadata_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._changes import Change
    from ._server_requests import Request
    from ._server_responses import Headers
    from .abstract_store import AbstractStore

    Metadata = dict[str, Any]

__all__ = ["write"]


def write(
    request: Request,
    store: AbstractStore,
    method: str,
    key: str,
    args: tuple[Any, ...],
    conditions: dict[str, str],
    at_hand: bool = True,
) -> Response:
    """Call a method of a store that changes one key, and answer.

    ``Prefer: return=minimal`` (RFC 7240) asks for no more than a status, ``return=representation``
    for the new etag besides. That is certain only if nobody else writes in between, in a transaction.

    Parameters
    ----------
    request : Request
    store : AbstractStore
    method : {'set', 'set_data', 'set_metadata', 'update_metadata', 'delete'}
    key : str
    args : tuple
        What the method takes besides, by position.
    conditions : dict
        'if_match' or 'if_none_match', if there is one.
    at_hand : bool
        Whether what is to be written is in memory. Others are not kept out while a client sends.
    """
    wish = _wish(request)
    etag = None
    watch = _Watch(store, key, wish != "minimal")
    if (
        wish == "representation"
        and at_hand
        and method != "delete"
        and store.info().get("transactional")
    ):
        with store.transaction():
            watch.call(method, args, conditions)
            etag = store.get(key).etag
    else:
        watch.call(method, args, conditions)
    is_new, metadata = watch.outcome()
    headers: Headers = [NOT_KEPT]
    if wish is not None:
        headers.append(("Preference-Applied", f"return={wish}"))
    if etag is not None:
        headers.append(("ETag", format_etag(etag)))
    if wish == "minimal":
        if is_new:
            return Response(201, [("Content-Type", "application/json"), *headers])
        return Response(204, headers)
    content = {"created": is_new, "metadata": metadata, "etag": etag}
    if method == "delete":
        # What has gone has neither.
        content = {"metadata": metadata}
    return json_response(201 if is_new else 200, content, headers)


def _wish(request: Request) -> str | None:
    for each in (request.header("Prefer") or "").lower().split(","):
        name, _, value = each.partition(";")[0].partition("=")
        if name.strip() == "return":
            value = value.strip().strip('"')
            return value if value in ("minimal", "representation") else None
    return None


class _Watch:
    """What one call does to a key."""

    def __init__(self, store: AbstractStore, key: str, whole: bool) -> None:
        self._store = store
        self._key = key
        # Without it only whether the key is new.
        self._whole = whole
        self._changes: list[Change] = []
        self._before: Metadata | None = None
        self._was_there = False

    def call(self, method: str, args: tuple[Any, ...], conditions: dict[str, str]) -> None:
        store, key = self._store, self._key
        call = getattr(store, method)
        if isinstance(store, ChangeTeller):
            state = store._state
            outer, state.observer = state.observer, self._changes.append
            try:
                call(key, *args, **conditions)
            finally:
                state.observer = outer
            return
        if self._whole:
            self._before = metadata_of(store, key)
            self._was_there = self._before is not None
        else:
            self._was_there = store.exists(key)
        call(key, *args, **conditions)

    def outcome(self) -> tuple[bool, Metadata]:
        """Return whether the key was new, and the metadata that it has, or had."""
        store, key = self._store, self._key
        for change in reversed(self._changes):
            if change.key == key:
                return change.kind is StoreSetEvent, change.metadata
        if isinstance(store, ChangeTeller) or not self._whole:
            # One that tells nothing has changed nothing.
            is_new = not (isinstance(store, ChangeTeller) or self._was_there)
            return is_new, (metadata_of(store, key) or {}) if self._whole else {}
        after = metadata_of(store, key)
        if after is None:
            return False, self._before or {}
        return not self._was_there, after
