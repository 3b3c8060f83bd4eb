from __future__ import annotations

import errno
import os
import sys
from datetime import timedelta
from types import MappingProxyType

import pytest

from encore.events.event_manager import EventManager
from encore.storage.dict_memory_store import DictMemoryStore
from encore.storage.directory_store import DirectoryStore
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import StoreError, StoreOSError
from encore.storage.filesystem_store import FileSystemStore, FileSystemStoreError
from encore.storage.opener import open_store
from encore.storage.sqlite_store import SqliteStore
from encore.storage.static_url_store import StaticURLStore


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def module(folder, monkeypatch):
    (folder / "opener_example.py").write_text(
        """\
from encore.storage.api import DictMemoryStore, StoreError
from encore.storage.directory_store import DirectoryStore

def reading():
    return DirectoryStore(".")

class Inner:
    @staticmethod
    def make(event_manager=None):
        return DictMemoryStore(event_manager=event_manager)

def plain():
    return DictMemoryStore()

def anything(**kwargs):
    store = DictMemoryStore(event_manager=kwargs.pop("event_manager"))
    store.options = kwargs
    return store

def choosing(event_manager=None, *, index=None):
    store = DictMemoryStore(event_manager=event_manager)
    store.index = index
    return store

def positional(event_manager=None, /):
    assert event_manager is None
    return DictMemoryStore()

def failing():
    raise LookupError("no luck")

def refusing():
    raise StoreError("not today")

def nothing():
    return None

constant = 1
"""
    )
    (folder / "opener_broken.py").write_text("1 / 0")
    (folder / "opener_missing.py").write_text("import opener_not_there")
    monkeypatch.syspath_prepend(folder)
    yield "opener_example"
    for name in ("opener_example", "opener_broken", "opener_missing"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("memory:", DictMemoryStore),
        ("sqlite:new.db", SqliteStore),
        ("fs:new", FileSystemStore),
        ("sqlite::memory:", SqliteStore),
        ("encore.storage.dict_memory_store:DictMemoryStore", DictMemoryStore),
    ],
)
def test_a_name_makes_a_store_that_is_not_connected(name, kind):
    manager = EventManager()
    store = open_store(name, create=True, event_manager=manager)
    assert type(store) is kind
    assert store.event_manager is manager
    assert not store.is_connected()
    with store:
        assert "type" in store.info()


@pytest.mark.parametrize("name", ["sqlite:new.db", "fs:new"])
def test_what_was_made_can_be_opened(name, folder):
    with open_store(name, create=True) as store:
        store.from_bytes("key", b"data")
    for create in (False, True):
        with open_store(name, create=create) as store:
            assert store.to_bytes("key") == b"data"


@pytest.mark.parametrize("name", ["sqlite:new.db", "fs:new", "dir:new"])
def test_what_is_missing_is_not_made_unasked(name, folder):
    with pytest.raises(StoreOSError, match="new") as caught:
        open_store(name)
    assert caught.value.errno == errno.ENOENT
    assert list(folder.iterdir()) == []


def test_a_directory_store_is_never_made(folder):
    with pytest.raises(StoreError, match="'dir:new' can only be read"):
        open_store("dir:new", create=True)
    assert list(folder.iterdir()) == []


def test_a_directory_makes_a_store_that_can_be_read(folder):
    manager = EventManager()
    store = open_store("dir:.", event_manager=manager)
    assert type(store) is DirectoryStore
    assert store.event_manager is manager
    assert not store.is_connected()


def test_a_store_to_be_written_can_be_written(module, folder):
    assert type(open_store("opener_example:reading")) is DirectoryStore
    for name in ("dir:.", "opener_example:reading"):
        with pytest.raises(StoreError, match=f"'{name}' can only be read"):
            open_store(name, create=True)


def test_a_database_in_memory_has_the_name_that_sqlite_gives_it(folder):
    with open_store("sqlite::memory:") as store:
        store.from_bytes("key", b"data")
        assert store.info()["durable"] == "none"
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("scheme", ["sqlite", "fs", "dir"])
def test_missing_paths_are_told_in_full(folder, scheme):
    with pytest.raises(StoreOSError) as caught:
        open_store(f"{scheme}:new")
    assert caught.value.filename == str(folder / "new")


def test_an_empty_directory_becomes_a_file_system_store(folder):
    (folder / "new").mkdir()
    (folder / "new" / ".FSStore.0123").write_bytes(b"left by one that was interrupted")
    with open_store("fs:new", create=True) as store:
        store.from_bytes("key", b"data")


def test_other_directories_are_left_alone(folder):
    (folder / "photos").mkdir()
    (folder / "photos" / "lake.jpg").write_bytes(b"")
    with pytest.raises(FileSystemStoreError):
        open_store("fs:photos", create=True)
    assert [path.name for path in (folder / "photos").iterdir()] == ["lake.jpg"]
    (folder / "file").write_bytes(b"x")
    with pytest.raises(StoreError):
        open_store("fs:file", create=True)
    assert (folder / "file").read_bytes() == b"x"


def test_parents_are_not_made(folder):
    with pytest.raises(StoreOSError):
        open_store("fs:no/new", create=True)
    with pytest.raises(StoreError):
        open_store("sqlite:no/new.db", create=True).connect()
    assert list(folder.iterdir()) == []


def test_a_path_is_a_path_whatever_it_looks_like(folder):
    with open_store("sqlite:file:x?mode=memory", create=True) as store:
        store.from_bytes("key", b"")
    assert [path.name for path in folder.iterdir()] == ["file:x?mode=memory"]


@pytest.mark.parametrize(
    "name",
    ["", ":", "memory", "x", "x.db", "/etc", "C:\\x", "httpx://host/x", "ftp://host/"]
    + ["readonly:x", "nothing:", ":nothing", "a b:c", "json:", "json:d-e", "json:1"]
    + ["SQLITE:x", "s3:bucket/x"],
)
def test_other_names_are_refused_with_a_list_of_the_known(name):
    known = (
        "memory:, sqlite:PATH, fs:PATH, lockfs:PATH, dir:PATH, http://HOST/, static:URL, "
        "module:callable, WRAPPER::STORE"
    )
    with pytest.raises(ValueError, match=known):
        open_store(name)


@pytest.mark.parametrize("name", ["sqlite:", "fs:", "dir:", "memory:x", "dir:a\0b"])
def test_what_can_be_no_path_is_refused(name, folder):
    with pytest.raises(ValueError, match=name[:4]):
        open_store(name, create=True)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["http://host/x", "https://[::1]:8080/x/"])
def test_a_url_is_the_folder_of_the_keys_and_the_query(name):
    store = open_store(name, create=True, options={"timeout": 5})
    assert type(store) is DynamicURLStore
    assert store.base_url == f"{name.rstrip('/')}/keys"
    assert store.query_url == f"{name.rstrip('/')}/query"
    assert store._url("a") == f"{name.rstrip('/')}/keys/a"


@pytest.mark.parametrize("url", ["http://host/x", "https://host/x/", "file:/tmp/x"])
def test_a_static_url_is_that_of_a_folder(url):
    store = open_store(f"static:{url}", options={"poll": 0, "timeout": 5})
    assert type(store) is StaticURLStore
    assert "index.json" in vars(store).values()
    with pytest.raises(StoreError, match="can only be read"):
        open_store(f"static:{url}", create=True)
    with pytest.raises(ValueError, match="poll, timeout"):
        open_store(f"static:{url}", options={"pol": 0})


def test_a_login_in_a_url_is_not_shown():
    name = "https://me:secret@host/x"
    store = open_store(name)
    assert store.base_url == "https://host/x/keys"
    assert store._login == ("me", "secret")
    for text in (
        repr(store),
        _error(name, options={"tmeout": 5}),
        _error(f"{name}?a=secret"),
        _error(f"{name}#secret"),
        _error(f"static:{name}?secret"),
    ):
        assert "secret" not in text
        assert "host" in text


def _error(*arguments, **named):
    with pytest.raises(ValueError, match="no") as caught:
        open_store(*arguments, **named)
    return str(caught.value)


@pytest.mark.parametrize(
    "name", ["http:server", "http://", "http:///x", "https://:80/", "static:x"]
)
def test_a_url_without_a_host_is_refused(name):
    with pytest.raises(ValueError, match="no host"):
        open_store(name)


@pytest.mark.parametrize("name", [None, 1, b"memory:"])
def test_a_name_is_a_str(name):
    with pytest.raises(TypeError):
        open_store(name)


@pytest.mark.parametrize("attribute", ["Inner.make", "plain", "anything", "positional"])
def test_a_callable_makes_a_store(module, attribute):
    manager = EventManager()
    store = open_store(f"{module}:{attribute}", event_manager=manager)
    assert type(store) is DictMemoryStore
    assert store.event_manager is manager
    assert type(open_store(f"{module}:{attribute}")) is DictMemoryStore


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opener_not_there:make", "no module 'opener_not_there'"),
        ("opener_not_there.sub:make", "no module 'opener_not_there'"),
        ("opener_example:absent", "absent"),
        ("opener_example:constant", "cannot be called"),
    ],
)
def test_a_callable_that_is_not_there_is_a_wrong_name(module, name, message):
    with pytest.raises(ValueError, match=message):
        open_store(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("opener_example:failing", "no luck"),
        ("opener_example:refusing", "not today"),
        ("opener_example:nothing", "no store but None"),
        ("opener_broken:make", "ZeroDivisionError"),
        ("opener_missing:make", "opener_not_there"),
    ],
)
def test_a_callable_that_fails_is_a_store_error(module, name, message):
    with pytest.raises(StoreError, match=message):
        open_store(name)


def test_a_callable_without_a_signature_is_called_without_arguments():
    with pytest.raises(StoreError, match=r"no store but \{\}"):
        open_store("builtins:dict")


# Options


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sqlite:new.db", {"index": "static", "index_columns": ["n"], "durability": "process"}),
        ("sqlite::memory:", {"index": None}),
        ("fs:new", {"index": True, "durability": "process"}),
        ("fs:new", {"magic_fname": ".mark"}),
        ("lockfs:new", {"remote_event_poll_interval": 0, "max_time_delta": timedelta(hours=1)}),
        ("memory:", {}),
    ],
)
def test_options_are_those_of_the_store(folder, name, options):
    manager = EventManager()
    with open_store(name, create=True, event_manager=manager, options=options) as store:
        assert store.event_manager is manager
        store.set_metadata("key", {"n": 1})
        assert list(store.query_keys(n=1)) == ["key"]
        if "durability" in options:
            assert store.info()["durable"] == "process"
    if "memory" not in name:
        with open_store(name, options=MappingProxyType(options)) as store:
            assert list(store.query_keys(n=1)) == ["key"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "sqlite:new.db",
            {"indx": 1},
            "no option 'indx'; there are table, index, index_columns, dur",
        ),
        ("sqlite:new.db", {"location": "x"}, "no option 'location'"),
        ("sqlite::memory:", {"location": "x"}, "no option 'location'"),
        ("sqlite:new.db", {"event_manager": None}, "'event_manager' is an argument"),
        ("sqlite:new.db", {"create": True}, "'create' is an argument of open_store"),
        ("sqlite::memory:", {"create": False}, "'create' is an argument of open_store"),
        ("sqlite:new.db", {"indx": 1}, "durability, poll$"),
        ("sqlite:new.db", {"index": "other"}, "index"),
        ("fs:new", {"path": "x"}, "no option 'path'"),
        ("fs:new", {"poll": 1}, "there are magic_fname, durability, index"),
        ("fs:new", {"durability": "never"}, "durability"),
        ("lockfs:new", {"index": True}, "no option 'index'"),
        ("memory:", {"index": True}, "no option 'index'; there are none"),
        ("dir:.", {"index": True}, "no option 'index'; there are none"),
        ("opener_example:plain", {"index": True}, "no option 'index'; there are none"),
        ("opener_example:choosing", {"poll": 1}, "no option 'poll'; there are index"),
        ("builtins:dict", {"a": 1}, "no option 'a'; there are none"),
    ],
)
def test_other_options_and_values_are_refused_before_anything_is_made(
    folder, module, name, options, message
):
    before = set(folder.iterdir())
    with pytest.raises(ValueError, match=message):
        open_store(name, create=True, options=options)
    with pytest.raises(TypeError, match="options are"):
        open_store(name, create=True, options=list(options))
    with pytest.raises(TypeError, match="options are"):
        open_store(name, create=True, options={1: 2})
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} == before


def test_a_value_of_another_type_is_told_before_anything_is_made(folder):
    with pytest.raises(TypeError, match="timedelta"):
        open_store("lockfs:new", create=True, options={"max_time_delta": 60})
    assert list(folder.iterdir()) == []


def test_callables_get_the_options_they_take(module):
    assert open_store(f"{module}:choosing", options={"index": [1]}).index == [1]
    assert open_store(f"{module}:choosing").index is None
    assert open_store(f"{module}:anything", options={"a": 1, "b": 2}).options == {"a": 1, "b": 2}


@pytest.mark.parametrize("path", ["site", "/srv/my site", "a/b"])
def test_a_path_given_as_a_url_gets_a_hint(path):
    from urllib.parse import quote

    with pytest.raises(ValueError, match="the URL has no host") as caught:
        open_store(f"static:{path}")
    assert str(caught.value).endswith(f"static:file:{quote(os.path.abspath(path))}")


@pytest.mark.parametrize("url", ["https:host", "https:///x", "//host/x", "me:secret@host/x"])
def test_what_is_no_path_gets_no_hint(url):
    with pytest.raises(ValueError, match="the URL has no host") as caught:
        open_store(f"static:{url}")
    assert "static:file:" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_site_of_the_hint_is_opened(tmp_path):
    site = tmp_path / "my site"
    (site / "data").mkdir(parents=True)
    (site / "data" / "a").write_bytes(b"alpha")
    (site / "index.json").write_text('{"a": {}}')
    with pytest.raises(ValueError, match="static:file:") as caught:
        open_store(f"static:{site}")
    with open_store(str(caught.value).rpartition(" ")[2]) as store:
        assert store.to_bytes("a") == b"alpha"
