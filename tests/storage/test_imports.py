"""What importing a module of the package loads: nothing that takes long.

Each test runs in an interpreter of its own that has loaded nothing else (-S: not even what a
virtual environment adds).
"""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import encore.storage
from encore.storage.base_store import Head
from encore.storage.directory_store import LeftOut

FOLDER = Path(encore.storage.__file__).parent
MODULES = sorted(
    f"encore.storage.{path.stem}" for path in FOLDER.glob("*.py") if path.stem != "__init__"
)

# Built in, or so small that it does not count.
FREE = {"__future__", "_thread", "errno", "itertools"}

# Modules that others import on first use, and what they may load: this and all that it needs.
LATE = {
    "encore.storage._files": {"contextlib"},
    "encore.storage._copier": {"contextlib"},
    "encore.storage._ftp_handler": {"ftplib", "urllib.request"},
    "encore.storage._url_transport": {"http.client", "urllib.request"},
    "encore.storage._http_server": {"logging", "queue", "selectors", "socket", "threading"},
    "encore.storage._http_server_address": {"socket"},
    "encore.storage._http_server_channel": {"socket", "struct"},
    "encore.storage._http_server_connection": {"logging", "socket"},
    "encore.storage._http_server_refusals": {"selectors", "socket"},
    "encore.storage._http_socket": {"http.client", "select", "socket"},
}

CONTRACT = {
    "encore",
    "encore.storage",
    "encore.storage._keys",
    "encore.storage._metadata",
    "encore.storage._streams",
    "encore.storage.abstract_store",
    "encore.storage.errors",
    "encore.storage.value",
}
LEAF = CONTRACT | {
    "encore.storage._changes",
    "encore.storage.base_store",
    "encore.storage.string_value",
}
SQLITE = LEAF | {"encore.storage._sqlite_base", "encore.storage.sqlite_store"}
OVERLAY = LEAF | {"encore.storage.overlay_store"}
FILES = OVERLAY | {"encore.storage._pair_store", "encore.storage.filesystem_store"}


def child(code, *arguments):
    code = f"import sys; sys.path.insert(0, {str(FOLDER.parents[1])!r})\n{code}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded(statement):
    """The modules that a statement loads into a fresh interpreter."""
    code = (
        "import abc, io, os, time; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    return set(child(code).split())


def is_ours(name):
    return name.split(".")[0] == "encore"


@pytest.mark.parametrize("module", MODULES)
def test_importing_a_module_loads_nothing_heavy(module):
    others = {name for name in loaded(f"import {module}") if not is_ours(name)} - FREE
    if module in LATE:
        assert others >= LATE[module]
    else:
        assert others == set()


def test_modules_that_are_not_light_are_not_loaded_by_others():
    names = [name for name in MODULES if name not in LATE]
    assert loaded(f"import {', '.join(names)}").isdisjoint(LATE)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        (["api"], {"encore", "encore._lazy", "encore.storage", "encore.storage.api"}),
        (["abstract_store"], CONTRACT),
        (["dict_memory_store"], OVERLAY | {"encore.storage.dict_memory_store"}),
        (["sqlite_store"], SQLITE),
        (["filesystem_store"], FILES),
        (
            ["dict_memory_store", "sqlite_store", "filesystem_store"],
            FILES | SQLITE | {"encore.storage.dict_memory_store"},
        ),
    ],
)
def test_what_a_store_does_not_need_to_be_defined_waits_for_its_first_use(modules, expected):
    names = ", ".join(f"encore.storage.{name}" for name in modules)
    assert set(filter(is_ours, loaded(f"import {names}"))) == expected


def test_a_name_of_the_api_loads_its_module_only():
    modules = loaded("from encore.storage.api import AbstractStore")
    assert set(filter(is_ours, modules)) == CONTRACT | {"encore._lazy", "encore.storage.api"}
    assert {name for name in modules if not is_ours(name)} <= FREE


USE = """
with store:
    store.set("a", (io.BytesIO(b"one"), {"n": 1}))
    store.set_data("b", io.BytesIO(bytes(200_000)))
    with store.transaction("both"):
        store.update_metadata("a", {"m": 2})
        store.delete("b")
    assert store.to_bytes("a") == b"one"
    assert list(store.query(n=1)) == [("a", {"n": 1, "m": 2})]
    try:
        store.get("b")
    except KeyError:
        pass
    else:
        raise AssertionError
"""

# An expression for each kind of store, in a folder that is prepared.
STORES = {
    "dict_memory_store": "DictMemoryStore()",
    "sqlite_store": "SqliteStore(sys.argv[1] + '/a.db')",
    "filesystem_store": "FileSystemStore(sys.argv[1])",
}


@pytest.fixture
def folder(tmp_path):
    from encore.storage.filesystem_store import init_shared_store

    init_shared_store(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("module", STORES)
def test_the_first_store_of_a_process_has_all_it_needs(module, folder):
    code = f"import io; from encore.storage.{module} import *; store = {STORES[module]}\n{USE}"
    child(code, folder)


@pytest.mark.parametrize("module", STORES)
def test_the_first_store_of_a_process_may_come_out_of_a_pickle(module, folder):
    code = f"""
import pickle, sys; from encore.storage.{module} import *
print(pickle.dumps({STORES[module]}).hex())
"""
    pickled = child(code, folder).strip()
    code = f"""
import io, pickle; store = pickle.loads(bytes.fromhex(sys.argv[2]))
{USE}"""
    child(code, folder, pickled)


def test_a_file_system_store_can_be_prepared_first(tmp_path):
    code = "from encore.storage.filesystem_store import *; init_shared_store(sys.argv[1])"
    child(code, str(tmp_path))
    assert (tmp_path / ".FSStore").is_file()


def test_first_stores_of_several_threads_are_all_prepared_for_a_fork():
    # Both threads have found that theirs is the first one.
    code = """
import json, threading
from encore.storage import base_store
from encore.storage.dict_memory_store import DictMemoryStore

load, both = base_store._load, threading.Barrier(2, timeout=30)

def load_together():
    load()
    both.wait()

base_store._load = load_together
made = []
threads = [threading.Thread(target=lambda: made.append(DictMemoryStore())) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps([len(made), len(base_store._stores)]))
"""
    assert json.loads(child(code)) == [2, 2]


# What is a named tuple in all but name, as typing.NamedTuple would load typing.


def test_what_was_left_out_is_a_tuple_with_names():
    left = LeftOut("a", "why")
    assert left == ("a", "why", None)
    assert (left.path, left.reason, left.error) == tuple(left)
    assert pickle.loads(pickle.dumps(left)) == left
    assert type(copy.copy(left)) is LeftOut
    assert repr(left) == "LeftOut(path='a', reason='why', error=None)"


def test_a_head_can_be_taken_apart_compared_and_replaced():
    head = Head({"a": 1}, 1.0, 2.0, 3)
    metadata, created, modified, size = head
    assert (metadata, created, modified, size) == ({"a": 1}, 1.0, 2.0, 3)
    assert head == Head({"a": 1}, 1.0, 2.0, 3)
    assert head != Head({"a": 1}, 1.0, 2.0, 4)
    assert head._replace(size=4) == Head({"a": 1}, 1.0, 2.0, 4)
    assert repr(head) == "Head({'a': 1}, 1.0, 2.0, 3)"
