"""A tour of the stores: each step is shown as Python, then run, and the one is the other."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from textwrap import indent
from typing import Any

STEPS = [
    (
        "Copy the standard library's sources into a SQLite database",
        """\
import sysconfig
from encore.events.api import EventManager
from encore.storage.api import copy_store, open_store
from encore.terminal.api import ProgressDisplay

def wanted(key):
    return (key.endswith((".py", ".txt", ".html", ".xml"))
            and "-packages/" not in key)  # site-packages, dist-packages

events, progress = EventManager(), EventManager()
library = open_store("dir:" + sysconfig.get_path("stdlib"))
database = open_store(f"sqlite:{folder}/library.db", create=True,
                      event_manager=events)
stores.enter_context(library)
stores.enter_context(database)
with ProgressDisplay(progress):
    report = copy_store(library, database, match=wanted,
                        event_manager=progress)
print(report)
""",
    ),
    (
        "Find files by their type",
        """\
from collections import Counter

types = Counter(facts["type"] for key, facts in database.query())
for name, count in types.most_common():
    print(f"{count:6} {name}")
modules = database.query(["size"], type="text/x-python")
size, key = max((facts["size"], key) for key, facts in modules)
print("The largest module is", key, "with", size, "bytes.")
""",
    ),
    (
        "Read a range of one file",
        """\
with database.get_data_range("json/__init__.py", 4, 37) as stream:
    print(stream.read().decode())
""",
    ),
    (
        "Change two keys, and think better of it",
        """\
from encore.storage.api import StoreModificationEvent, StoreTransactionEvent

def show(event):
    what = getattr(event, "key", getattr(event, "state", ""))
    print("  event:", type(event).__name__, what)

events.connect(StoreTransactionEvent, show)
events.connect(StoreModificationEvent, show)
try:
    with database.transaction("never mind"):
        database.update_metadata("json/__init__.py", {"read": True})
        database.delete("this.py")
        raise RuntimeError("changed my mind")
except RuntimeError as error:
    print("rolled back:", error)
print("this.py is there:", database.exists("this.py"))
""",
    ),
    (
        "Change two keys for good",
        """\
with database.transaction("reading list"):
    database.update_metadata("json/__init__.py", {"read": True})
    database.set_metadata("this.py", {"read": True, "verdict": "fine"})
print("read so far:", sorted(database.query_keys(read=True)))
""",
    ),
    (
        "Copy a part of it into a directory of files",
        """\
files = open_store(f"fs:{folder}/files", create=True)
stores.enter_context(files)
with ProgressDisplay(progress):
    report = copy_store(database, files, match="json/*",
                        event_manager=progress)
print(report)
for key in files.keys(limit=3):
    print(key, files.to_bytes(key) == database.to_bytes(key))
""",
    ),
]

BEGIN = """\
The indented lines are Python, and what follows them is what they print. There
are a temporary directory, `folder`, and a contextlib.ExitStack, `stores`, which
closes all stores at the end.
"""
END = """\
All stores are closed, and the temporary directory is gone. A copy for keeps:
    python -m encore copy dir:SOME_DIRECTORY sqlite:library.db
"""


def run() -> None:
    """Run all steps."""
    print(BEGIN)
    with TemporaryDirectory(prefix="encore-demo-") as folder, ExitStack() as stores:
        names: dict[str, Any] = {"folder": folder, "stores": stores}
        for number, (title, code) in enumerate(STEPS, 1):
            heading = f"{number}. {title}"
            print(heading, "-" * len(heading), "", indent(code, "    "), sep="\n")
            # Before what goes to standard error.
            sys.stdout.flush()
            exec(compile(code, f"<step {number}>", "exec"), names)
            print()
    print(END, end="")
