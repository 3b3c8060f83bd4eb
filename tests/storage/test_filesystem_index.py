"""The index of the FileSystemStore: the answers are those of a scan, whatever others do."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import sqlite3
import tempfile
from contextlib import closing, contextmanager, nullcontext
from unittest import mock

import pytest
from indexed_store import (
    agree,
    count_reads,
    index_file,
    needs_watch,
    opened,
    plant,
    put,
    unwatched,
    used,
)

import encore.storage._pair_index as module
from encore.storage._pair_index_file import IndexLock
from encore.storage.errors import StoreError
from encore.storage.filesystem_store import init_shared_store

FAST = "/dev/shm" if os.path.isdir("/dev/shm") else None
NAMES = ["a", "b", "odd name", "", "\u00e4" * 80]
VALUES = [None, True, False, 0, 1, 1.0, 2**70, "x", "x" * 100, "", [1], [2], {"c": 1}]
KEYS = ["a", "b.txt", "Upper", "\u00e4/\u00f6", "k" * 300, "con", "%%6x"]


@pytest.fixture
def root():
    with tempfile.TemporaryDirectory(dir=FAST) as folder:
        init_shared_store(folder)
        yield folder


# Answers


class Changes:
    """Changes of every kind, at random."""

    def __init__(self, root, random, stores):
        self.root = root
        self.random = random
        self.stores = stores

    def metadata(self):
        names = self.random.sample(NAMES, self.random.randrange(4))
        return {name: self.random.choice(VALUES) for name in names}

    def criteria(self):
        """Return what something may match."""
        files = [file for file in sorted(os.listdir(self.root)) if file.endswith(".metadata")]
        if files and self.random.random() < 0.8:
            try:
                with open(f"{self.root}/{self.random.choice(files)}") as file:
                    return dict(self.random.choice(sorted(json.load(file).items())) for _ in "1")
            except (ValueError, OSError, IndexError):
                pass
        return self.metadata() or {"a": 1}

    def step(self):
        # After some of them everything is looked at anew, which would hide mistakes.
        prefix = "do_" if self.random.random() < 0.93 else "rarely_"
        kinds = [each for each in dir(self) if each.startswith(prefix)]
        name = self.random.choice(kinds)
        getattr(self, name)(self.random.choice(self.stores), self.random.choice(KEYS))
        return name

    def do_set(self, store, key):
        store.set(key, (io.BytesIO(b"data"), self.metadata()))

    def do_set_again(self, store, key):
        self.do_set(store, key)

    def do_set_metadata(self, store, key):
        store.set_metadata(key, self.metadata())

    def do_delete(self, store, key):
        if store.exists(key):
            store.delete(key)

    def do_transaction(self, store, key):
        with store.transaction(""):
            for key in self.random.sample(KEYS, 3):
                self.do_set(store, key)
            self.do_delete(store, key)
            agree_inside(store)

    def do_rollback(self, store, key):
        def fail():
            with store.transaction(""):
                self.do_set(store, key)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

    def do_plant(self, store, key):
        plant(self.root, self.random.choice(["a", "b.txt", "Upper"]), self.metadata())

    def do_plant_in_place(self, store, key):
        plant(self.root, self.random.choice(["a", "Upper"]), self.metadata(), replace=False)

    def do_write_metadata_in_place(self, store, key):
        for file in sorted(os.listdir(self.root)):
            # A link may lead nowhere.
            is_there = file.endswith(".metadata") and os.path.exists(f"{self.root}/{file}")
            if is_there and self.random.random() < 0.4:
                with open(f"{self.root}/{file}", "r+b") as metadata:
                    metadata.truncate()
                    metadata.write(json.dumps(self.metadata()).encode())

    def do_damage(self, store, key):
        with open(f"{self.root}/{self.random.choice(['a', 'b.txt'])}.metadata", "wb") as file:
            file.write(b'{"a": 1')

    def do_remove_half(self, store, key):
        files = [file for file in sorted(os.listdir(self.root)) if not file.startswith(".FS")]
        if files:
            path = f"{self.root}/{self.random.choice(files)}"
            os.unlink(path)

    def do_replace_by_a_link(self, store, key):
        with open(f"{self.root}/elsewhere", "w") as file:
            json.dump(self.metadata(), file)
        if os.path.lexists(f"{self.root}/linked"):
            # What has two names already is not renamed to the other one.
            os.unlink(f"{self.root}/linked")
        how = self.random.choice([os.symlink, os.link])
        how(f"{self.root}/elsewhere", f"{self.root}/linked")
        os.rename(f"{self.root}/linked", f"{self.root}/b.txt.metadata")

    def do_write_through_another_name(self, store, key):
        if os.path.exists(f"{self.root}/elsewhere"):
            with open(f"{self.root}/elsewhere", "w") as file:
                json.dump(self.metadata(), file)

    def rarely_lose_the_index(self, store, key):
        if os.path.exists(index_file(self.root)):
            os.unlink(index_file(self.root))

    def rarely_copy_the_index(self, store, key):
        if os.path.exists(index_file(self.root)):
            shutil.copy2(index_file(self.root), f"{self.root}/copy")

    def rarely_put_an_old_index_back(self, store, key):
        if os.path.exists(f"{self.root}/copy"):
            if self.random.random() < 0.5:
                os.rename(f"{self.root}/copy", index_file(self.root))
            else:
                shutil.copy2(f"{self.root}/copy", index_file(self.root))

    def rarely_damage_the_index(self, store, key):
        if os.path.exists(index_file(self.root)):
            size = os.path.getsize(index_file(self.root))
            with open(index_file(self.root), "r+b") as file:
                file.truncate(self.random.randrange(size + 1))

    def rarely_scribble_in_the_index(self, store, key):
        if os.path.exists(index_file(self.root)):
            size = os.path.getsize(index_file(self.root))
            with open(index_file(self.root), "r+b") as file:
                for _ in range(20):
                    file.seek(self.random.randrange(max(1, size - 100)))
                    file.write(self.random.randbytes(self.random.randrange(100)))
            # Clocks may not tell it from a change that was made just before.
            os.utime(index_file(self.root), (1, 1))

    def rarely_lose_the_lock_of_the_index(self, store, key):
        if os.path.exists(f"{index_file(self.root)}.lock"):
            os.unlink(f"{index_file(self.root)}.lock")

    def rarely_reconnect(self, store, key):
        store.disconnect()
        store.connect()


def agree_inside(store):
    for criteria in ({"a": 1}, {"b": None}):
        expected = {key for key in store.query_keys() if matches(store, key, criteria)}
        assert set(store.query_keys(**criteria)) == expected


def matches(store, key, criteria):
    try:
        metadata = store.get_metadata(key)
    except StoreError:
        return False
    return all(
        name in metadata
        and metadata[name] == value
        and isinstance(metadata[name], bool) == isinstance(value, bool)
        for name, value in criteria.items()
    )


@pytest.mark.parametrize("seed", [1, 2, 3, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("has_watch", [True, False])
def test_whatever_happens_the_answers_are_those_of_a_scan(root, seed, has_watch):
    steps = 100 if seed else 5000
    seed = seed or random.randrange(10**9)
    chance = random.Random(seed)
    asks = []
    find = module.PairIndex.find

    def noted(self, criteria):
        names = find(self, criteria)
        asks.append(names is not None)
        return names

    with (
        nullcontext() if has_watch else unwatched(),
        mock.patch.object(module.PairIndex, "find", noted),
        mock.patch.object(module, "_PAUSE", 0),
        opened(root) as one,
        opened(root) as two,
        opened(root, index=False) as plain,
    ):
        changes = Changes(root, chance, [one, two, plain])
        history = []
        for _ in range(steps):
            history.append(changes.step())
            if chance.random() < 0.5:
                criteria = changes.criteria()
                asked = chance.sample([one, two], chance.randrange(3))
                try:
                    agree(root, asked, criteria)
                except BaseException:
                    print(seed, history[-20:])
                    raise
    # Not by reading all metadata.
    assert sum(asks) > 0.8 * len(asks) > 10


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", VALUES)
def test_every_name_and_value_is_found(root, name, value):
    with opened(root) as store:
        for number, other in enumerate(VALUES):
            store.set_metadata(f"k{number}", {name: other})
        # Equal ones: 1 and 1.0.
        with opened(root, index=False) as plain:
            expected = sorted(plain.query_keys(where={name: value}))
        assert used(store, where={name: value}) == expected != []


def test_metadata_that_no_store_writes_are_found(root):
    with opened(root) as store:
        for name, text in (
            ("nan", b'{"a": NaN, "b": 1}'),
            ("utf16", '{"b": 1}'.encode("utf-16")),
            ("twice", b'{"b": 2, "b": 1}'),
            ("surrogate", b'{"b": 1, "c": "\\ud800"}'),
            ("nul", b'{"b": 1, "\\u0000": "\\u0000"}'),
            ("big", b'{"b": 1, "c": 1e999}'),
            ("array", b"[1]"),
            ("nothing", b""),
        ):
            plant(root, name, {})
            with open(f"{root}/{name}.metadata", "wb") as file:
                file.write(text)
        assert [key for key, _ in agree(root, [store], {"b": 1})] != []
        assert set(used(store, b=1)) == {"nan", "utf16", "twice", "surrogate", "nul", "big"}


def test_a_key_under_two_names_is_found_once_as_it_is_read(root):
    with opened(root) as store:
        put(store, "Notes", a=1)
        plant(root, "Notes", {"a": 2})
        assert used(store, a=1) == ["Notes"]
        assert used(store, a=2) == []
        os.unlink(f"{root}/%%4eotes.metadata")
        assert used(store, a=2) == ["Notes"]


def test_many_keys_are_found_and_none_twice(root):
    with opened(root) as store:
        for number in range(300):
            put(store, f"k{number}", number=number % 3, all=True)
        assert len(used(store, number=1)) == 100
        # So many that reading all is faster.
        assert sorted(store.query_keys(all=True)) == sorted(store.keys())


@contextmanager
def failing_rename(suffix):
    rename = os.rename

    def call(source, target):
        if target.endswith(suffix):
            raise OSError(5, "Input/output error")
        rename(source, target)

    with mock.patch.object(os, "rename", call):
        yield


@pytest.mark.parametrize("first", [True, False])
def test_changes_that_were_not_carried_out_to_their_end_are_found(root, first):
    with opened(root) as store, opened(root, index=False) as other:
        for key in ("k", "k2", "k3"):
            put(other, key, a=0)
        if not first:
            assert used(store, a=1) == []
        with failing_rename(".metadata"):
            put(other, "k", a=1)
            assert used(store, a=1) == ["k"]
        with failing_rename(".data"), other.transaction(""):
            put(other, "k2", a=1)
            put(other, "k4", a=1)
            other.delete("k")
        assert os.path.exists(f"{root}/.FSjournal")
        assert used(store, a=1) == ["k2", "k4"]
        put(other, "k3", a=1)
        assert not os.path.exists(f"{root}/.FSjournal")
        assert used(store, a=1) == ["k2", "k3", "k4"]


@needs_watch
def test_a_change_that_is_carried_out_during_a_query_is_found(root):
    with opened(root) as store, opened(root, index=False) as other:
        put(other, "k", a=0)
        assert used(store, a=1) == []
        with failing_rename(".metadata"):
            put(other, "k", a=1)
        update = module.PairIndex._update

        def overtaken(self):
            update(self)
            os.rename(f"{root}/.FStmp/p-k", f"{root}/k.metadata")

        with mock.patch.object(module.PairIndex, "_update", overtaken):
            assert used(store, a=1) == ["k"]
        assert used(store, a=1) == ["k"]


@pytest.mark.parametrize("first", [True, False])
def test_what_changes_while_files_are_read_is_found_by_the_next_query(root, first):
    with opened(root) as store:
        put(store, "k", a=0)
        if not first:
            used(store, a=1)
            put(store, "other")
        rows = module.PairIndex._rows

        def overtaken(self, found):
            found = list(rows(self, found))
            plant(root, "k", {"a": 1})
            plant(root, "new", {"a": 1})
            return found

        with mock.patch.object(module.PairIndex, "_rows", overtaken):
            used(store, a=1)
        assert used(store, a=1) == ["k", "new"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("how", [os.symlink, os.link])
def test_what_is_written_through_another_name_is_found(root, how, first):
    plant(root, "k", {"a": 0})
    os.rename(f"{root}/k.metadata", f"{root}/elsewhere")
    with opened(root) as store:
        put(store, "other", a=2)
        if not first:
            assert used(store, a=2) == ["other"]
        how(f"{root}/elsewhere", f"{root}/k.metadata")
        assert used(store, a=1) == []
        with open(f"{root}/elsewhere", "w") as file:
            file.write('{"a": 1}')
        assert used(store, a=1) == ["k"]
        os.unlink(f"{root}/k.metadata")
        assert used(store, a=1) == []


@pytest.mark.parametrize("is_open", [True, False])
def test_an_index_that_somebody_else_has_changed_is_not_trusted(root, is_open):
    with age(root), opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        for _ in range(2):
            if not is_open:
                store.disconnect()
            with closing(sqlite3.connect(index_file(root))) as connection, connection:
                connection.execute('delete from "pairs#index"')
            if not is_open:
                store.connect()
            assert used(store, a=1) == ["k"]


@needs_watch
def test_an_old_index_that_is_put_back_is_not_trusted(root):
    with age(root), opened(root) as store, opened(root) as other:
        put(store, "k", a=0)
        assert used(store, a=1) == used(other, a=1) == []
        shutil.copy2(index_file(root), f"{root}/copy")
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        assert used(other, a=1) == ["k"]
        shutil.copy2(f"{root}/copy", index_file(root))
        assert used(store, a=1) == used(other, a=1) == ["k"]


def test_handles_agree_on_one_file_after_it_was_lost(root):
    with age(root), opened(root) as store, opened(root) as other:
        put(store, "k", a=1)
        for path in (index_file(root), f"{index_file(root)}.lock"):
            assert used(store, a=1) == used(other, a=1) == ["k"]
            os.unlink(path)
            for _ in range(2):
                assert used(store, a=1) == used(other, a=1) == ["k"]
            assert store._pair_index._inode == other._pair_index._inode
            assert count_reads(store, lambda: used(store, a=1)) == 0
            assert count_reads(other, lambda: used(other, a=1)) == 0
        shutil.rmtree(f"{root}/.FStmp")
        for _ in range(2):
            assert list(store.query_keys(a=1)) == list(other.query_keys(a=1)) == ["k"]


# The index is used, and brought up to date


@needs_watch
def test_a_query_reads_only_what_has_changed(root):
    with opened(root) as store, opened(root, index=False) as other:
        for number in range(20):
            put(store, f"k{number}", a=number)
        assert used(store, a=3) == ["k3"]
        assert count_reads(store, lambda: used(store, a=3)) == 0
        put(other, "k5", a=3)
        plant(root, "planted", {"a": 3})
        assert count_reads(store, lambda: used(store, a=3)) == 2
        assert used(store, a=3) == ["k3", "k5", "planted"]
        other.delete("k3")
        assert used(store, a=3) == ["k5", "planted"]
        # What is gone is not kept.
        count = "SELECT count(*) FROM pairs"
        assert store._pair_index._connection.execute(count).fetchone() == (20,)


@needs_watch
def test_what_is_written_in_place_is_found(root):
    with opened(root) as store:
        put(store, "k", a=0)
        assert used(store, a=1) == []
        with open(f"{root}/k.metadata", "r+") as file:
            for value in (1, 2):
                file.seek(0)
                file.write(f'{{"a":{value}}}')
                file.flush()
                # Nobody has closed it yet.
                assert used(store, a=value) == ["k"]


def test_a_name_that_a_directory_passes_over_is_found(root):
    """As some file systems do while it is being renamed."""
    scandir = os.scandir

    @contextmanager
    def passing_over(path):
        with scandir(path) as entries:
            yield [entry for entry in entries if entry.name != "k.metadata"]

    with opened(root) as store:
        put(store, "k", a=1)
        with mock.patch.object(os, "scandir", passing_over):
            assert used(store, a=1) == ["k"]


def age(root):
    """Let files look as if they had not been changed for a while."""
    return mock.patch.object(module, "_TICK", -60)


def test_another_handle_reads_nothing_that_has_not_changed(root):
    with age(root):
        with opened(root) as store:
            for number in range(20):
                put(store, f"k{number}", a=number)
            used(store, a=1)
        with open(f"{root}/k3.metadata", "r+b") as file:
            file.write(b'{"a":1}')
        os.utime(f"{root}/k3.metadata", ns=(1, 1))
        with opened(root) as store:
            reads = count_reads(store, lambda: used(store, a=1))
            assert used(store, a=1) == ["k1", "k3"]
        assert reads == 1


def test_what_was_changed_just_before_is_read_again(root):
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
    # With the same size, and perhaps the same times.
    with open(f"{root}/k.metadata", "r+b") as file:
        file.write(b'{"a":2}')
    status = os.stat(f"{root}/k.metadata")
    with (
        mock.patch.object(module, "status_of", return_value="the same"),
        opened(root) as store,
    ):
        assert used(store, a=2) == ["k"]
    assert module._Look(root).at(status) == ""


@needs_watch
def test_more_changes_than_the_kernel_keeps_are_not_missed(root):
    with open("/proc/sys/fs/inotify/max_queued_events") as file:
        most = int(file.read())
    if most > 100_000:
        pytest.skip(f"the kernel keeps {most} changes")
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        for _ in range(most // 4 + 1):
            os.rename(f"{root}/k.metadata", f"{root}/x")
            os.rename(f"{root}/x", f"{root}/k.metadata")
        plant(root, "later", {"a": 1})
        assert used(store, a=1) == ["k", "later"]


@needs_watch
def test_the_directory_may_be_replaced(root):
    with opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        os.rename(root, f"{root}.old")
        shutil.copytree(f"{root}.old", root)
        try:
            plant(root, "new", {"a": 1})
            assert used(store, a=1) == ["k", "new"]
            plant(root, "newer", {"a": 1})
            assert used(store, a=1) == ["k", "new", "newer"]
        finally:
            shutil.rmtree(f"{root}.old")


def test_an_index_of_another_boot_is_made_anew(root):
    with age(root), opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        with IndexLock(store._pair_index) as lock:
            store._pair_index._connection.execute('delete from "pairs#index"')
            lock.note(index_file(root))
        store.disconnect()
        with mock.patch.object(module, "boot_of_computer", return_value="another"):
            store.connect()
            assert used(store, a=1) == ["k"]


@pytest.mark.parametrize(("boot", "synced"), [("", 2), ("known", 0)])
def test_changes_are_synced_where_boots_cannot_be_told_apart(root, boot, synced):
    with mock.patch.object(module, "boot_of_computer", return_value=boot), opened(root) as store:
        put(store, "k", a=1)
        assert used(store, a=1) == ["k"]
        connection = store._pair_index._connection
        assert connection.execute("PRAGMA synchronous").fetchone() == (synced,)
        store.disconnect()
        store.connect()
        assert used(store, a=1) == ["k"]


def test_a_file_that_is_no_index_is_made_one(root):
    with opened(root) as store:
        put(store, "k", a=1)
        for content in (b"", b"nonsense" * 1000, b"SQLite format 3\0" + bytes(5000)):
            store.disconnect()
            with open(index_file(root), "wb") as file:
                file.write(content)
            store.connect()
            assert used(store, a=1) == ["k"]


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 1000, b"SQLite format 3\0" + bytes(5000)])
def test_damage_that_only_sqlite_can_see_makes_it_anew(root, is_open, content):
    with opened(root) as store:
        for number in range(300):
            put(store, f"k{number}", a=number, b="x" * 100)
        assert used(store, a=1) == ["k1"]
        with IndexLock(store._pair_index) as lock:
            # In place, so that it is the same file.
            with open(index_file(root), "r+b") as file:
                file.truncate()
                file.write(content)
            lock.note(index_file(root))
        if not is_open:
            store.disconnect()
            store.connect()
        assert list(store.query_keys(a=1)) == ["k1"]
        if content:
            assert used(store, a=1) == ["k1"]
