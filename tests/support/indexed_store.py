"""What the tests of the index of the FileSystemStore share."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import contextmanager
from unittest import mock

import pytest

import encore.storage._directory_watch as watch_module
import encore.storage._pair_index as module
from encore.storage.filesystem_store import FileSystemStore

HAS_WATCH = sys.platform.startswith("linux")
needs_watch = pytest.mark.skipif(not HAS_WATCH, reason="there is no inotify here")


@contextmanager
def opened(root, index=True, **options):
    store = FileSystemStore(root, durability="process", index=index, **options)
    with store:
        yield store


@contextmanager
def unwatched():
    """As where the kernel tells of no changes."""
    with mock.patch.object(watch_module.sys, "platform", "other"):
        yield


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def plant(root, name, metadata, data=b"planted", replace=True):
    for suffix, content in (("data", data), ("metadata", json.dumps(metadata).encode())):
        path = f"{root}/{name}.{suffix}"
        with open(f"{root}/.planting" if replace else path, "wb") as file:
            file.write(content)
        if replace:
            os.rename(f"{root}/.planting", path)


def index_file(root):
    return f"{root}/.FStmp/index"


def used(store, **criteria):
    """Query by the index; fail if all metadata are read."""
    with mock.patch.object(store, "_keys_and_names", side_effect=AssertionError("a scan")):
        return sorted(store.query_keys(**criteria))


def agree(root, stores, criteria):
    with opened(root, index=False) as plain:
        expected = sorted(plain.query(where=criteria), key=str)
    for store in stores:
        assert sorted(store.query(where=criteria), key=str) == expected, criteria
    return expected


def count_reads(store, function):
    with mock.patch.object(module, "read_file", side_effect=module.read_file) as read:
        function()
    return sum(path.endswith(".metadata") for (path,), _ in read.call_args_list)
