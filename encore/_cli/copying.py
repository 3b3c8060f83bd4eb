"""``copy`` and ``sync``."""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import partial

from . import FAILED, WrongUse, complain, reason_of
from .stores import opened, writable
from .text import checked_pattern, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any

    from encore.storage.abstract_store import AbstractStore
    from encore.storage.copying import CopyReport

__all__ = ["copy", "sync"]


def copy(arguments: argparse.Namespace) -> int:
    from encore.storage.copying import copy_store

    return _run(copy_store, arguments)


def sync(arguments: argparse.Namespace) -> int:
    from encore.storage.copying import sync_store

    return _run(
        partial(sync_store, delete=arguments.delete, dry_run=arguments.dry_run),
        arguments,
        create=not arguments.dry_run,
    )


def _run(run: Callable[..., CopyReport], arguments: argparse.Namespace, create: bool = True) -> int:
    from encore.events.event_manager import EventManager
    from encore.storage._keys import key_matcher

    if not arguments.quiet:
        from encore.terminal.progress_display import ProgressDisplay

    match = checked_pattern(arguments.match)
    # One of its own: the progress of the whole is shown, not that of each key.
    events = EventManager()
    with (
        opened(arguments.source, arguments.source_option) as source,
        writable(arguments.target, arguments.target_option, create=create) as target,
        nullcontext() if arguments.quiet else ProgressDisplay(events),
    ):
        own = _own_files(source, target)
        report = run(
            source,
            target,
            match=match if own is None else _all_but(own, match),
            on_conflict=arguments.on_conflict,
            workers=arguments.workers,
            event_manager=events,
        )
        left = list(_left_out(source, match))
        if own is not None and key_matcher(match or "*")(own):
            left.append((own, "it is the target", None))
    for key, error in report.failed.items():
        complain(f"{shown(key)}: {reason_of(error)}")
    for path, reason, cause in left:
        if cause or not arguments.quiet:
            complain(f"left out {shown(path)}: {reason}")
    if report.dry_run:
        # What it is asked for, even if it is to be quiet.
        for word, keys in (("copy", report.copied), ("delete", report.deleted)):
            for key in keys:
                print(f"{word} {shown(key)}")
    has_failed = bool(report.failed) or any(error for _, _, error in left)
    if has_failed or not arguments.quiet:
        print(f"{report}, {len(left)} left out" if left else report)
    return FAILED if has_failed else 0


def _own_files(source: Any, target: AbstractStore) -> str | None:
    """Return the key that the target's file or directory has in a directory that is the source."""
    from encore.storage.directory_store import DirectoryStore

    info = target.info()
    path = info.get("path") or info.get("location")
    if not isinstance(source, DirectoryStore) or not isinstance(path, str) or path == ":memory:":
        return None
    root = os.path.realpath(source.path)
    path = os.path.realpath(path)
    if path == root:
        raise WrongUse(f"the target is in the directory that is the source: {root!r}")
    own = os.path.relpath(path, root).replace(os.sep, "/")
    return None if own.split("/")[0] == ".." else own


def _all_but(own: str, match: str | None) -> Callable[[str], object]:
    """Return what matches, but for the target's own files: it would be copied while it grows."""
    from encore.storage._keys import key_matcher

    matches = key_matcher("*" if match is None else match)
    beside = {own, *(f"{own}-{suffix}" for suffix in ("wal", "shm", "journal"))}
    return lambda key: matches(key) and key not in beside and not key.startswith(f"{own}/")


def _left_out(source: Any, match: str | None) -> Iterator[tuple[str, str, Exception | None]]:
    """Tell what a store cannot give, as far as it concerns the copy."""
    from encore.storage._keys import key_matcher, literal_prefix

    tell = getattr(source, "left_out", None)
    if tell is None:
        return
    prefix = literal_prefix(match or "")
    matches = key_matcher("*" if match is None else match)
    for path, reason, error in tell():
        # In a directory there may be what matches, whether or not its own name does.
        inside = path.endswith("/") and (path.startswith(prefix) or prefix.startswith(path))
        if inside or matches(path):
            yield path, reason, error
