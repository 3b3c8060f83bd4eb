"""What the tests of pairs of files share."""

from __future__ import annotations

import io
import json
import os


def put(store, key, data=b"", **metadata):
    store.set(key, (io.BytesIO(data), metadata))


def plant(root, key, data=b"data", metadata=None, stamp=None):
    for suffix, content in (
        ("data", data),
        ("metadata", metadata if type(metadata) is bytes else json.dumps(metadata or {}).encode()),
    ):
        path = os.path.join(os.fsencode(root), os.fsencode(f"{key}.{suffix}"))
        with open(path, "wb") as file:
            file.write(content)
        if stamp is not None:
            os.utime(path, (stamp, stamp))


def pair(store, key):
    value = store.get(key)
    return value.data.read(), value.metadata
