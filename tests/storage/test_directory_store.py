from __future__ import annotations

import errno
import os
import pickle
import socket
from pathlib import Path

import pytest

from encore.events.event_manager import EventManager
from encore.storage import directory_store
from encore.storage.directory_store import DirectoryStore
from encore.storage.errors import StoreError, StoreOSError

LARGE = 200_000

needs_links = pytest.mark.skipif(os.name != "posix", reason="needs links, FIFOs and byte names")


@pytest.fixture
def manager():
    return EventManager()


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for name, data in {
        "readme.txt": b"hello",
        ".hidden": b"h",
        "empty": b"",
        "a/b/c.html": b"<p>",
        "a/.git/config": b"[core]",
        "a-b": b"minus sorts before slash",
        "a.b": b"dot too",
        "a0": b"zero behind",
        "large.bin": bytes(range(256)) * (LARGE // 256) + b"x" * (LARGE % 256),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "nothing in here").mkdir()
    return root


KEYS = [
    ".hidden",
    "a-b",
    "a.b",
    "a/.git/config",
    "a/b/c.html",
    "a0",
    "empty",
    "large.bin",
    "readme.txt",
]


@pytest.fixture
def store(tree, manager):
    with DirectoryStore(tree, event_manager=manager) as store:
        yield store


def assert_absent(store, key):
    with pytest.raises(KeyError) as caught:
        store.get(key)
    assert caught.value.args == (key,)
    with pytest.raises(KeyError):
        store.get_metadata(key)
    assert not store.exists(key)
    assert key not in list(store.query_keys())
    assert key not in [found for found, _ in store.query()]


def test_every_regular_file_is_a_key(store):
    assert sorted(store.query_keys()) == KEYS
    assert sorted(key for key, _ in store.query()) == KEYS
    assert list(store.keys()) == KEYS
    assert all(map(store.exists, KEYS))


def test_values_are_the_files(store, tree):
    for key in KEYS:
        assert store.to_bytes(key) == (tree / key).read_bytes()
        value = store.get(key)
        assert value.size == (tree / key).stat().st_size
        assert value.modified == (tree / key).stat().st_mtime
        assert isinstance(value.created, float)
        assert value.metadata == store.get_metadata(key)


def test_metadata_are_facts_about_the_file(store, tree):
    os.utime(tree / "a/b/c.html", (1, 12345.5))
    assert store.get_metadata("a/b/c.html") == {
        "name": "c.html",
        "size": 3,
        "mtime": 12345.5,
        "type": "text/html",
    }
    assert store.get_metadata("a/b/c.html", select=["size", "no"]) == {"size": 3}


def test_query_finds_by_metadata(store):
    assert list(store.query_keys(type="text/html")) == ["a/b/c.html"]
    assert list(store.query(select=["size"], name="empty")) == [("empty", {"size": 0})]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.py", "text/x-python"),
        ("x.txt", "text/plain"),
        ("x.tar.gz", "application/gzip"),
        ("x.svg.bz2", "application/x-bzip2"),
        ("x.tar.xz", "application/x-xz"),
        ("x.txt.Z", "application/octet-stream"),
        ("x", "application/octet-stream"),
        ("data:text,x", "application/octet-stream"),
        ("http:x.html", "text/html"),
    ],
)
@needs_links
def test_type_is_guessed_from_the_name(store, tree, name, kind):
    (tree / name).write_bytes(b"")
    assert store.get_metadata(name)["type"] == kind


def test_ranges_of_small_and_large_files(store, tree):
    for key in ("readme.txt", "large.bin", "empty"):
        data = (tree / key).read_bytes()
        for start, end in ((0, 2), (-3, None), (2, -1), (5, 2), (10**9, None), (None, None)):
            assert store.get_data_range(key, start, end).read() == data[start:end]
    with store.get("large.bin").data as stream:
        stream.seek(-1, os.SEEK_END)
        assert stream.read() == b"x"


@pytest.mark.parametrize(
    "key",
    ["a//b/c.html", "./readme.txt", "a/../readme.txt", "/readme.txt", "readme.txt/", "a/b/"]
    + ["a", ".", "..", "../tree/readme.txt", "no", "readme.txt/x", "readme.txt\0", "a\\b", "A0"]
    + ["x" * 300, "/etc/passwd", "C:\\x", "a/./b/c.html"],
)
def test_a_path_has_one_spelling(store, key):
    assert_absent(store, key)


def test_pages_are_those_of_the_sorted_keys(store):
    for prefix in ("", "a", "a/", "a/b", "a/b/c.html", "a/b/c.html/", "r", "zz"):
        for after in (None, "", "a", "a-b", "a/", "a/.git/config", "a/b", "a/zz", "a0", "zz"):
            expected = [
                key for key in KEYS if key.startswith(prefix) and (after is None or key > after)
            ]
            assert list(store.keys(prefix, after)) == expected
            assert list(store.keys(prefix, after, 2)) == expected[:2]


def test_glob_knows_no_directories(store):
    assert sorted(store.glob("a*l")) == ["a/b/c.html"]
    assert sorted(store.glob("a[!/]*")) == ["a-b", "a.b", "a0"]
    assert sorted(store.glob("*")) == KEYS


@needs_links
def test_links_in_the_tree_are_files(store, tree):
    (tree / "link").symlink_to("a/b/c.html")
    (tree / "a/up").symlink_to("../large.bin")
    assert store.to_bytes("link") == b"<p>"
    assert store.get_metadata("link")["name"] == "link"
    assert store.get_metadata("link")["type"] == "application/octet-stream"
    assert store.get("a/up").size == LARGE
    assert len(store.to_bytes("a/up")) == LARGE
    assert sorted(store.query_keys()) == sorted([*KEYS, "link", "a/up"])
    assert sorted(key for key, _ in store.query()) == sorted([*KEYS, "link", "a/up"])


@needs_links
def test_links_out_of_the_tree_are_not_there(store, tree, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    # Its path begins as the tree's does.
    twin = tmp_path / "tree2"
    twin.mkdir()
    (twin / "x").write_bytes(b"secret")
    (tree / "out").symlink_to(secret)
    (tree / "twin").symlink_to(twin / "x")
    (tree / "relative").symlink_to("../secret")
    (tree / "dangling").symlink_to("nowhere")
    (tree / "loop").symlink_to("loop")
    (tree / "root").symlink_to(tree)
    (tree / "folder").symlink_to("a")
    (tree / "outer").symlink_to(twin)
    for key in ("out", "twin", "relative", "dangling", "loop", "root", "folder"):
        assert_absent(store, key)
    for key in ("folder/b/c.html", "outer/x", "root/readme.txt"):
        assert_absent(store, key)
    assert sorted(store.query_keys()) == KEYS


@needs_links
def test_a_tree_named_by_a_link_is_followed(tree, tmp_path):
    (tmp_path / "alias").symlink_to(tree)
    (tree / "link").symlink_to("readme.txt")
    with DirectoryStore(tmp_path / "alias") as store:
        assert store.to_bytes("link") == b"hello"
        assert sorted(store.query_keys()) == sorted([*KEYS, "link"])


@needs_links
def test_what_is_no_regular_file_is_never_opened(store, tree):
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("fifo")
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(tree)
    try:
        # The whole path may be too long for a socket.
        server.bind("socket")
    finally:
        os.chdir(here)
        server.close()
    for key in ("fifo", "link", "socket"):
        assert_absent(store, key)
    assert sorted(store.query_keys()) == KEYS


@needs_links
def test_a_fifo_in_place_of_a_file_does_not_block(store, tree, monkeypatch):
    path = tree / "readme.txt"
    found = store._find("readme.txt")
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(store, "_find", lambda key: found)
    with pytest.raises(StoreError, match="changes too fast"):
        store.get("readme.txt")


@needs_links
def test_a_link_in_place_of_a_file_is_not_followed(store, tree, tmp_path, monkeypatch):
    secret = tmp_path / "secret"
    (tree / "large.bin").rename(secret)
    found = (str(tree / "large.bin"), secret.stat())
    (tree / "large.bin").symlink_to(secret)
    monkeypatch.setattr(store, "_find", lambda key: found)
    with pytest.raises(StoreError, match="changes too fast"):
        store.get("large.bin")


@needs_links
def test_names_that_are_no_keys_are_left_out(store, tree):
    try:
        Path(os.fsdecode(os.fsencode(tree) + b"/\xff")).write_bytes(b"x")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    deep = tree
    for _ in range(6):
        deep /= "x" * 200
        deep.mkdir()
        (deep / "f").write_bytes(b"")
    keys = list(store.keys())
    assert [key for key in keys if not key.startswith("xxx")] == KEYS
    assert len(keys) == len(KEYS) + 5
    assert list(store.query_keys()) == keys


def test_values_in_hand_stay_or_say_that_they_changed(store, tree):
    small, large = store.get("readme.txt"), store.get("large.bin")
    stream = large.data
    assert stream.read(10) == bytes(range(10))
    (tree / "readme.txt").write_bytes(b"other")
    with open(tree / "large.bin", "ab") as file:
        file.write(b"more")
    assert small.data.read() == b"hello"
    for read in (lambda: large.data, lambda: large.range(0, 1), stream.read):
        with pytest.raises(StoreError, match=r"'large.bin' has changed") as caught:
            read()
        assert caught.value.key == "large.bin"
    assert store.get("large.bin").size == LARGE + 4


def test_an_open_stream_keeps_a_file_that_is_replaced(store, tree):
    large = store.get("large.bin")
    stream = large.data
    expected = (tree / "large.bin").read_bytes()
    (tree / "new").write_bytes(b"new")
    os.replace(tree / "new", tree / "large.bin")
    assert stream.read() == expected
    with pytest.raises(StoreError):
        large.data.read()


def test_a_large_value_whose_file_has_gone_says_so(store, tree):
    large = store.get("large.bin")
    (tree / "large.bin").unlink()
    with pytest.raises(StoreError, match="has gone") as caught:
        large.data.read()
    assert caught.value.key == "large.bin"


def test_a_file_that_goes_while_it_is_opened_is_not_there(store, tree, monkeypatch):
    find = store._find

    def find_and_unlink(key):
        found = find(key)
        (tree / key).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(store, "_find", find_and_unlink)
    with pytest.raises(KeyError):
        store.get("readme.txt")


def test_a_file_that_changes_once_is_read_again(store, tree, monkeypatch):
    pread = os.pread
    calls = []

    def growing(fd, size, position):
        if not calls:
            (tree / "readme.txt").write_bytes(b"hello you")
        calls.append(size)
        return pread(fd, size, position)

    monkeypatch.setattr(os, "pread", growing)
    assert store.get("readme.txt").data.read() == b"hello you"
    assert len(calls) == 2


def test_a_file_shorter_than_its_size_is_an_error(store, monkeypatch):
    # As those that a kernel makes up.
    monkeypatch.setattr(os, "pread", lambda fd, size, position: b"")
    with pytest.raises(StoreError, match="changes too fast"):
        store.get("readme.txt")
    with pytest.raises(StoreError, match="shorter"):
        store.get("large.bin").data.read()
    assert store.get("empty").data.read() == b""


def test_many_values_in_hand_need_no_open_files(store, tree):
    values = [store.get("large.bin") for _ in range(2000)]
    values += [store.get("readme.txt") for _ in range(2000)]
    assert values[0].range(0, 1).read() == b"\0"


def test_etag_moves_with_the_file(store, tree):
    for key in ("readme.txt", "large.bin"):
        before = store.get(key).etag
        assert store.get(key).etag == before
        os.utime(tree / key, (1, 2))
        assert store.get(key).etag != before


def refuse(monkeypatch, name, path, code=errno.EACCES):
    original = getattr(os, name)

    def refusing(target, *args, **kwargs):
        if os.fspath(target).rstrip("/.") == str(path):
            raise OSError(code, os.strerror(code), target)
        return original(target, *args, **kwargs)

    monkeypatch.setattr(os, name, refusing)


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_a_part_that_cannot_be_read_hides_nothing_else(store, tree, monkeypatch, call):
    refuse(monkeypatch, call, tree / "a")
    others = [key for key in KEYS if not key.startswith("a/")]
    assert list(store.keys()) == others
    assert list(store.query_keys()) == others
    assert sorted(key for key, _ in store.query()) == others


@pytest.mark.parametrize("call", ["scandir", "stat"])
def test_parts_that_cannot_be_read_are_left_out_with_the_error(store, tree, monkeypatch, call):
    assert list(store.left_out()) == []
    refuse(monkeypatch, call, tree / "a")
    (left,) = store.left_out()
    path, reason, error = left
    assert (path, reason) == ("a/", "cannot be read: Permission denied")
    assert isinstance(error, StoreOSError)
    assert error.errno == errno.EACCES


@needs_links
def test_what_is_left_out_is_told_with_the_reason(store, tree, tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tree / "a/out").symlink_to(tmp_path / "secret")
    (tree / "dangling").symlink_to("nowhere")
    (tree / "folder").symlink_to("a")
    (tree / "fine").symlink_to("readme.txt")
    (tree / "root").symlink_to(tree)
    (tree / "loop").symlink_to("loop")
    os.mkfifo(tree / "fifo")
    deep = tree
    for _ in range(6):
        deep /= "x" * 200
        deep.mkdir()
    left = {item.path: item.reason for item in store.left_out()}
    assert left == {
        "a/out": "a link that leads out of the tree",
        "dangling": "a link that leads nowhere",
        "loop": "a link that leads nowhere",
        "folder": "a link to what is no regular file",
        "root": "a link to what is no regular file",
        "fifo": "neither a file nor a directory nor a link",
        ("x" * 200 + "/") * 6: "a key has at most 1024 bytes",
    }
    assert not any(item.error for item in store.left_out())


@needs_links
def test_names_that_are_no_utf_8_are_left_out_with_the_reason(store, tree):
    try:
        Path(os.fsdecode(os.fsencode(tree) + b"/a/\xff")).write_bytes(b"x")
        os.mkdir(os.fsencode(tree) + b"/\xfe")
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    left = {item.path: item.reason for item in store.left_out()}
    assert left == dict.fromkeys(["a/\udcff", "\udcfe/"], "the name is no UTF-8")


@needs_links
def test_a_link_that_cannot_be_looked_at_is_left_out_with_the_error(store, tree, monkeypatch):
    (tree / "link").symlink_to("readme.txt")
    refuse(monkeypatch, "lstat", tree / "link")
    (left,) = store.left_out()
    assert (left.path, left.reason) == ("link", "cannot be read: Permission denied")
    assert isinstance(left.error, StoreOSError)


def test_what_goes_during_a_walk_is_not_left_out(store, tree, monkeypatch):
    refuse(monkeypatch, "scandir", tree / "a", errno.ENOENT)
    assert list(store.left_out()) == []


def test_a_root_that_cannot_be_read_is_an_error(store, tree, monkeypatch):
    refuse(monkeypatch, "scandir", tree)
    for listing in (store.keys, store.query_keys, store.query, store.left_out):
        with pytest.raises(StoreOSError) as caught:
            list(listing())
        assert caught.value.errno == errno.EACCES


def test_what_the_system_refuses_is_a_store_error(store, tree, monkeypatch):
    large = store.get("large.bin")
    with monkeypatch.context() as patch:
        refuse(patch, "open", tree / "readme.txt")
        refuse(patch, "open", tree / "large.bin", errno.EMFILE)
        with pytest.raises(StoreOSError) as caught:
            store.get("readme.txt")
        assert (caught.value.errno, caught.value.key) == (errno.EACCES, "readme.txt")
        with pytest.raises(StoreOSError) as caught:
            large.range(0, 1)
        assert (caught.value.errno, caught.value.key) == (errno.EMFILE, "large.bin")
    refuse(monkeypatch, "lstat", tree / "a")
    for call in (store.get, store.exists, store.get_metadata):
        with pytest.raises(StoreOSError) as caught:
            call("a/b/c.html")
        assert (caught.value.errno, caught.value.key) == (errno.EACCES, "a/b/c.html")


@needs_links
def test_a_link_that_cannot_be_looked_at_hides_nothing(store, tree, monkeypatch):
    (tree / "link").symlink_to("readme.txt")
    refuse(monkeypatch, "lstat", tree / "link")
    assert sorted(store.query_keys()) == KEYS
    assert sorted(key for key, _ in store.query()) == KEYS


def test_entries_that_go_during_a_walk_are_left_out(store, tree):
    walk = store.query()
    first = next(walk)[0]
    for path in sorted(tree.rglob("*"), reverse=True):
        if path.is_file() and path.name in ("readme.txt", "c.html"):
            path.unlink()
    (tree / "a/b").rmdir()
    keys = [first, *(key for key, _ in walk)]
    assert sorted(keys) == [key for key in KEYS if key not in ("readme.txt", "a/b/c.html")]


def test_a_file_replaced_by_a_directory_during_a_walk_is_left_out(store, tree):
    walk = store.query()
    next(walk)
    (tree / "readme.txt").unlink()
    (tree / "readme.txt").mkdir()
    assert "readme.txt" not in [key for key, _ in walk]


def test_entries_of_unknown_kind_that_cannot_be_looked_at_are_left_out():
    class Entry:
        name = "x"

        def is_dir(self, follow_symlinks):
            raise PermissionError

    assert directory_store._key("", Entry()) is None


def test_where_names_fold_only_the_listed_one_counts(store, monkeypatch):
    monkeypatch.setattr(directory_store, "_EXACT", False)
    assert store.to_bytes("a/b/c.html") == b"<p>"
    assert not store.exists("A/b/c.html")
    assert not store.exists("a/B/c.html")
    # As a file system that folds case would answer.
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: lstat(path.replace("README", "readme")))
    assert not store.exists("README.txt")
    monkeypatch.setattr(directory_store, "_EXACT", True)
    assert store.exists("README.txt")


@pytest.mark.parametrize("name", ["nowhere", "tree/readme.txt"])
def test_a_path_that_is_no_directory_cannot_be_connected(tree, tmp_path, name):
    store = DirectoryStore(tmp_path / name)
    with pytest.raises(StoreOSError, match=name.rpartition("/")[2]) as caught:
        store.connect()
    assert caught.value.errno in (errno.ENOENT, errno.ENOTDIR)
    assert not store.is_connected()


@pytest.mark.parametrize(
    ("path", "error"), [("", ValueError), ("a\0b", ValueError), (b"x", TypeError), (1, TypeError)]
)
def test_what_can_be_no_path_is_refused(path, error):
    with pytest.raises(error):
        DirectoryStore(path)


def test_the_event_manager_is_given_by_name(manager):
    with pytest.raises(TypeError, match="event_manager="):
        DirectoryStore(manager)


def test_a_relative_path_survives_chdir(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = DirectoryStore("tree")
    monkeypatch.chdir("/")
    with store:
        assert store.exists("readme.txt")
    assert store.path == str(tree)


def test_a_store_must_be_connected(tree):
    store = DirectoryStore(tree)
    with pytest.raises(StoreError, match="not connected"):
        store.get("readme.txt")
    with pytest.raises(ValueError, match="empty"):
        store.get("")
    store.connect()
    store.connect()
    store.disconnect()
    with pytest.raises(StoreError, match="not connected"):
        store.keys()


def test_a_pickled_store_arrives_disconnected(store):
    again = pickle.loads(pickle.dumps(store))
    assert not again.is_connected()
    with again:
        assert again.to_bytes("readme.txt") == b"hello"


def test_info_and_repr(store, tree):
    info = store.info()
    assert info["type"] == "DirectoryStore"
    assert (info["readonly"], info["streaming"]) == (True, True)
    assert not hasattr(store, "set")
    assert repr(store) == f"DirectoryStore({str(tree)!r})"


def test_progress_goes_to_the_given_manager(store, manager):
    from encore.storage.events import StoreProgressStepEvent

    steps = []
    manager.connect(StoreProgressStepEvent, lambda event: steps.append(event.step))
    store.to_bytes("large.bin", 150_000)
    assert steps == [150_000, LARGE]
