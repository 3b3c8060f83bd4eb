"""Imports.

Each in a fresh interpreter that takes the time itself; the byte code is there already. What is
imported are the names one uses, for a module may put off its work until it is asked for them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.suite import Row, both

if TYPE_CHECKING:
    from benchmarks.suite import Measure, Setup

_CHILD = """\
import sys, time
sys.path.insert(0, {path!r})
start = time.perf_counter()
{statements}
print(time.perf_counter() - start)
"""


def timed(statements: list[str], path: str) -> Measure:
    # Unlike this process with site: what every program imports is there already.
    command = [sys.executable, "-I", "-X", f"pycache_prefix={sys.pycache_prefix or ''}", "-c"]
    command.append(_CHILD.format(path=path, statements="\n".join(statements)))
    return lambda count: sum(float(subprocess.check_output(command)) for _ in range(count))


def imports(names: dict[str, str]) -> Measure:
    return timed([f"from {module} import {its}" for module, its in names.items()], sys.path[0])


def empty(modules: list[str]) -> Measure:
    """The same modules with nothing in them."""
    directory = tempfile.TemporaryDirectory()
    for module in modules:
        file = Path(directory.name, *module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        for package in file.relative_to(directory.name).parents[:-1]:
            Path(directory.name, package, "__init__.py").touch()
    measure = timed([f"import {module}" for module in modules], directory.name)
    return lambda count, _kept=directory: measure(count)  # type: ignore[misc]


def row(name: str, names: dict[str, str], also: list[str], goal: float, **peers: str) -> Row:
    """`also` has modules of 0.8 that the others cannot do without."""
    setups: dict[str, Setup] = {p: partial(imports, {p: n}) for p, n in peers.items()}
    setups |= both(partial(imports, names))
    setups["limit"] = partial(empty, [*names, *also])
    return Row(f"import {name}", setups, {"S": goal}, "as many empty modules", count=1)


_EVENTS = """BaseEvent, BaseEventManager, EventManager, Heartbeat, HeartbeatEvent, \
    ProgressEndEvent, ProgressEvent, ProgressManager, ProgressStartEvent, ProgressStepEvent, \
    get_event_manager, set_event_manager"""
_MODULES = "abstract_event_manager event_manager heartbeat package_globals progress_events"
_CONTRACT = "encore.storage.abstract_store"

ROWS = [
    row(
        "all of encore.events.api",
        {"encore.events.api": _EVENTS},
        [f"encore.events.{module}" for module in _MODULES.split()],
        9,
        **{"blinker": "Signal", "psygnal": "Signal", "pyee": "EventEmitter"},
    ),
    row("the contract of the stores", {_CONTRACT: "AbstractStore, Value"}, [], 7.9),
    row(
        "the memory, sqlite and file system stores",
        {
            "encore.storage.dict_memory_store": "DictMemoryStore",
            "encore.storage.sqlite_store": "SqliteStore",
            "encore.storage.filesystem_store": "FileSystemStore",
        },
        [_CONTRACT],
        9.7,
    ),
    row(
        "StaticURLStore",
        {"encore.storage.static_url_store": "StaticURLStore"},
        [_CONTRACT],
        20,
        **{"requests": "Session", "urllib3": "PoolManager"},
    ),
]
