"""StaticURLStore does what that of EnCore 0.8 does, which runs in a process of its own."""

from __future__ import annotations

import json
import subprocess

import pytest
from static_site import Site, serving

SCRIPT = """
import json, sys
# 0.8 does not import it.
import urllib.request
from encore.events.event_manager import EventManager
from encore.events.package_globals import set_event_manager
manager = EventManager()
set_event_manager(manager)
from encore.storage.events import StoreModificationEvent
from encore.storage.static_url_store import StaticURLStore

def attempt(function, *args, **kwargs):
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__

def read(stream):
    with stream:
        return stream.read().decode('latin-1')

def look(store):
    keys = ['a', 'b/c', 'b c', '\\u00e4+%?#', 'x' * 1000, 'no']
    return [
        sorted(store.query(), key=str),
        sorted(store.query(n=1), key=str),
        sorted(store.query(n=2, s='x'), key=str),
        sorted(store.query(select=['s', 'no']), key=str),
        sorted(store.query_keys()),
        sorted(store.query_keys(l=[1, 2])),
        sorted(store.query_keys(d={'a': None})),
        sorted(store.query_keys(no=1)),
        sorted(store.glob('b*')),
        [store.exists(key) for key in keys],
        [attempt(store.get_metadata, key) for key in keys],
        [attempt(store.get_metadata, key, ['n']) for key in keys],
        [attempt(lambda key: read(store.get_data(key)), key) for key in keys],
        [attempt(lambda key: read(store.get(key).data), key) for key in keys],
        [attempt(lambda key: store.to_bytes(key).decode('latin-1'), key) for key in keys],
        attempt(lambda: [value.metadata for value in store.multiget(['a', 'b/c'])]),
        attempt(lambda: list(store.multiget_metadata(['a', 'no']))),
        store.is_connected(),
        store.info()['readonly'],
    ]

def tell(*values):
    print(json.dumps(values), flush=True)

events = []
def listener(event):
    events.append([type(event).__name__, event.key, event.metadata, event.source is store])
manager.connect(StoreModificationEvent, listener)
store = StaticURLStore(sys.argv[1], 'data/', 'index.json', 0)
tell(store.is_connected())
store.connect()
tell(events, look(store))
sys.stdin.readline()
store.update_index()
tell(sorted(events, key=str), look(store))
store.disconnect()
tell(store.is_connected())
"""


@pytest.mark.parametrize("place", ["http", "file"])
def test_the_same_script_says_the_same(start_08, child, tmp_path, place):
    contents = {
        "a": (b"data of a", {"n": 1, "s": "x", "l": [1, 2]}),
        "b/c": (bytes(range(256)), {"n": 2, "s": "x"}),
        "b c": (b"", {"n": 1, "d": {"a": None}}),
        "\u00e4+%?#": (b"odd", {}),
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    found = []
    for start, options in ((start_08, pipes), (child, {})):
        site = Site(contents)
        root = tmp_path / str(len(found))
        write(site, root)
        with (
            serving(site) as url,
            start(SCRIPT, url if place == "http" else f"file:{root}/", **options) as process,
        ):
            lines = [process.stdout.readline(), process.stdout.readline()]
            site.index = {"a": {"n": [1]}, "b c": site.index["b c"], "new": {"n": 1}}
            site.data["new"] = b"new"
            write(site, root)
            out, _ = process.communicate(b"\n", timeout=60)
        assert process.returncode == 0
        found.append([json.loads(line) for line in [*lines, *out.splitlines()]])
    assert found[0] == found[1]
    assert len(found[0]) == 4


def write(site, root):
    for key, data in site.data.items():
        path = root / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "index.json").write_text(json.dumps(site.index))
