"""The layout of a StaticURLStore in a directory, as a server of plain files has it."""

from __future__ import annotations

import json
import os
import time
from pathlib import PurePosixPath


def export(contents, folder):
    """Write an index and data; ValueError for a key that can be no file.

    Parameters
    ----------
    contents : dict
        Data and metadata by key.
    folder : Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    for key, (data, _) in contents.items():
        if "\0" in key or key != str(PurePosixPath(key)) or {"", "..", "."} & {*key.split("/")}:
            raise ValueError(f"no file can have this name: {key!r}")
        path = folder / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        age(path)
    write_index(folder, {key: metadata for key, (_, metadata) in contents.items()})


def write_index(folder, index):
    """Put an index there, and the one before out of the way at once."""
    new = folder / "index.json.new"
    new.write_text(json.dumps(index), "utf-8")
    age(new)
    new.replace(folder / "index.json")


def age(path):
    """Let a file be an hour old: its date tells little of one that may change within a second."""
    then = time.time() - 3600
    os.utime(path, (then, then))
