from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import encore
from encore import __main__ as cli
from encore._cli import commands
from encore._cli.text import pairs_of
from encore.storage.dynamic_url_store import DynamicURLStore
from encore.storage.errors import StoreError
from encore.storage.filesystem_store import FileSystemStore, init_shared_store
from encore.storage.sqlite_store import SqliteStore
from encore.storage.static_url_store import StaticURLStore

ROOT = Path(encore.__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    # In memory where that can be had: what a disk makes of it is tried elsewhere.
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else tmp_path) as name:
        monkeypatch.chdir(name)
        yield Path(name)
        monkeypatch.undo()


class Result:
    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err


@pytest.fixture
def run(capfdbinary):
    """Run a command in this process; progress lines do not count as messages."""

    def run(*arguments):
        capfdbinary.readouterr()
        status = cli.main(arguments)
        out, err = capfdbinary.readouterr()
        return Result(status, out.decode(), err.decode())

    return run


@pytest.fixture
def tree(folder):
    root = folder / "tree"
    for name, data in {"a.txt": b"alpha", "b.bin": b"\0\xff", "sub/c.txt": b"gamma"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def environment(**variables):
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


def child(*arguments, **options):
    options.setdefault("env", environment())
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "encore", *arguments],
        stderr=subprocess.PIPE,
        **options,
    )


def finish(process, data=None):
    out, err = process.communicate(data, timeout=60)
    return Result(process.returncode, (out or b"").decode(), err.decode())


def assert_one_line(result, status, *words):
    assert result.status == status
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("python -m encore: ")
    for word in words:
        assert word in lines[0]


# copy


def test_copy_copies_and_says_how_many(run, tree):
    result = run("copy", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out) == (0, "3 copied, 0 skipped, 0 failed\n")
    assert "100%" in result.err
    with SqliteStore("x.db") as store:
        assert store.to_bytes("sub/c.txt") == b"gamma"
        assert store.get_metadata("sub/c.txt")["type"] == "text/plain"


def test_copy_again_skips_what_is_there(run, tree):
    run("copy", "dir:tree", "fs:x")
    result = run("copy", "dir:tree", "fs:x")
    assert (result.status, result.out) == (0, "0 copied, 3 skipped, 0 failed\n")


def test_copy_leaves_other_data_alone_unless_told(run, tree):
    run("copy", "dir:tree", "sqlite:x.db")
    (tree / "a.txt").write_bytes(b"ALPHA")
    result = run("copy", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out) == (1, "0 copied, 2 skipped, 1 failed\n")
    assert "python -m encore: a.txt: 'a.txt' is there with other data\n" in result.err
    result = run("copy", "--overwrite", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out) == (0, "1 copied, 2 skipped, 0 failed\n")
    assert run("cat", "sqlite:x.db", "a.txt").out == "ALPHA"


def test_copy_copies_what_matches(run, tree):
    run("copy", "dir:tree", "sqlite:x.db", "--match", "*.txt")
    assert run("ls", "sqlite:x.db").out == "a.txt\nsub/c.txt\n"


def test_copy_from_what_is_missing_makes_no_target(run, folder):
    assert_one_line(run("copy", "dir:no", "sqlite:x.db"), 1, "no")
    assert list(folder.iterdir()) == []


def test_copy_to_what_cannot_be_written_is_refused(run, tree):
    assert_one_line(run("copy", "dir:tree", "dir:tree"), 1, "'dir:tree' can only be read")
    assert_one_line(run("copy", "dir:tree", "dir:new"), 1, "'dir:new' can only be read")
    assert_one_line(run("rm", "dir:tree", "a.txt"), 1, "'dir:tree' can only be read")


def told(result):
    return [line for line in result.err.splitlines() if line.startswith("python -m encore: ")]


def test_copy_says_once_how_many(run, tree):
    run("copy", "dir:tree", "sqlite:x.db")
    (tree / "a.txt").write_bytes(b"ALPHA")
    result = run("copy", "dir:tree", "sqlite:x.db")
    assert result.out == "0 copied, 2 skipped, 1 failed\n"
    assert "copied" not in result.err
    assert len(told(result)) == 1
    assert result.err.count("WARNING: 1 of 3 keys failed") == 1


@pytest.mark.skipif(os.name != "posix", reason="needs links and FIFOs")
def test_copy_tells_what_it_leaves_out(run, tree):
    (tree / "sub/out").symlink_to("/")
    os.mkfifo(tree / "pi\npe")
    result = run("copy", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out) == (0, "3 copied, 0 skipped, 0 failed, 2 left out\n")
    assert told(result) == [
        r"python -m encore: left out pi\npe: neither a file nor a directory nor a link",
        "python -m encore: left out sub/out: a link that leads out of the tree",
    ]
    result = run("copy", "dir:tree", "sqlite:x.db", "--match", "*.txt")
    assert (result.status, result.out) == (0, "0 copied, 2 skipped, 0 failed\n")
    assert told(result) == []


def test_copy_fails_where_something_cannot_be_read(run, tree, monkeypatch):
    scandir = os.scandir

    def refusing(path):
        if str(path).rstrip("/") == str(tree / "sub"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    result = run("copy", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out) == (1, "2 copied, 0 skipped, 0 failed, 1 left out\n")
    assert told(result) == ["python -m encore: left out sub/: cannot be read: Permission denied"]
    # There may be one of these in it.
    assert run("copy", "dir:tree", "sqlite:x.db", "--match", "s*.txt").status == 1
    # But not one of these.
    assert run("copy", "dir:tree", "sqlite:x.db", "--match", "a*").status == 0


def test_quiet_copy_says_only_what_fails(run, tree):
    result = run("copy", "--quiet", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out, result.err) == (0, "", "")
    (tree / "a.txt").write_text("other")
    result = run("copy", "--quiet", "dir:tree", "sqlite:x.db")
    assert result.status == 1
    assert "1 failed" in result.out
    assert len(result.err.splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_quiet_copy_does_not_tell_what_cannot_be_a_key(run, tree):
    (tree / "out").symlink_to("/")
    result = run("copy", "--quiet", "dir:tree", "sqlite:x.db")
    assert (result.status, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize("target", ["sqlite:tree/x.db", "checked::sqlite:tree/x.db", "fs:tree/x"])
@pytest.mark.parametrize("match", [[], ["--match", "*"]])
def test_a_copy_does_not_copy_its_target(run, tree, target, match):
    for _ in range(2):
        result = run("copy", "dir:tree", target, *match)
        assert result.status == 0
        assert result.out.endswith("0 failed, 1 left out\n")
        name = target.rpartition("/")[2]
        assert told(result) == [f"python -m encore: left out {name}: it is the target"]
        assert run("ls", target).out == "a.txt\nb.bin\nsub/c.txt\n"
    (tree / f"{name}.txt").write_bytes(b"another")
    run("copy", "dir:tree", target, *match)
    assert f"{name}.txt" in run("ls", target).out


@pytest.mark.parametrize("target", ["fs:..", "sqlite:../x.db", "fs:../tree2"])
def test_a_target_that_lies_beside_the_source_leaves_nothing_out(run, tree, monkeypatch, target):
    init_shared_store(tree.parent)
    monkeypatch.chdir(tree)
    result = run("copy", "dir:.", target)
    assert (result.status, result.out) == (0, "3 copied, 0 skipped, 0 failed\n")


def test_a_directory_is_not_copied_into_itself(run, tree):
    run("copy", "dir:tree", "fs:store")
    before = sorted(os.listdir("store"))
    result = run("copy", "dir:store", "fs:store")
    assert_one_line(result, 2, "the target is in the directory that is the source")
    assert sorted(os.listdir("store")) == before


@pytest.mark.parametrize("value", ["none", "None", "True", "FALSE"])
def test_a_value_that_is_nearly_json_gets_a_hint(run, tree, value):
    run("copy", "dir:tree", "fs:x")
    result = run("ls", "fs:x", "--option", f"index={value}")
    right = {"n": "null", "t": "true", "f": "false"}[value[0].lower()]
    assert_one_line(result, 2, f"a value is JSON, or else text: did you mean index={right}?")


def test_other_wrong_values_get_no_hint(run, tree):
    run("copy", "dir:tree", "fs:x")
    assert "JSON" not in run("ls", "fs:x", "--option", "durability=no").err
    assert run("ls", "fs:x", "--option", "index=false").status == 0


@pytest.mark.parametrize("name", ["retry=x", "hash=x", "cache=x:memory:", "metadata-cache=x"])
def test_a_chain_says_what_an_argument_is(run, name):
    result = run("ls", f"{name}::memory:")
    assert_one_line(result, 2, "::STORE: it takes a ")
    assert "number" in result.err
    assert ", not 'x'" in result.err


def test_maintenance_is_for_the_store_within(run, tree):
    run("copy", "dir:tree", "sqlite:x.db")
    result = run("compact", "prefix=sub/::sqlite:x.db")
    expected = "a PrefixStore has no compact; use the store within, sqlite:x.db"
    assert_one_line(result, 2, expected)
    assert_one_line(run("compact", "memory:"), 2, "a DictMemoryStore has no compact")


@pytest.mark.parametrize("command", ["ls", "check", "info"])
@pytest.mark.parametrize("kind", ["fs", "lockfs"])
def test_a_store_that_is_missing_can_be_made(run, command, kind):
    result = run(command, f"{kind}:missing")
    assert_one_line(result, 1, "put and copy make what is missing")
    assert not os.path.exists("missing")
    assert "put and copy" not in run(command, "dir:missing").err


def test_an_interrupt_before_there_is_a_command_is_one_line(folder):
    (folder / "argparse.py").write_text("raise KeyboardInterrupt")
    result = finish(child("--version", cwd=folder))
    assert result.status == 130
    assert result.err == "python -m encore: interrupted\n"


def test_a_copied_directory_is_told_once(run, tree):
    run("copy", "dir:tree", "fs:x")
    shutil.copytree("x", "y", copy_function=shutil.copyfile)
    assert run("check", "fs:x").status == 0
    result = run("check", "fs:y")
    assert result.status == 1
    [line] = result.out.splitlines()
    assert line.startswith("3 keys ('a.txt', 'b.bin', 'sub/c.txt'): the data have another time ")


def test_copy_takes_a_number_of_workers(run, tree):
    assert run("copy", "dir:tree", "sqlite:x.db", "--workers", "1").status == 0
    for number in ("0", "-1", "many", "9" * 7):
        assert_one_line(run("copy", "dir:tree", "sqlite:y.db", f"--workers={number}"), 2, "workers")
    assert not os.path.exists("y.db")


def test_sync_makes_the_target_like_the_source(run, tree):
    run("copy", "dir:tree", "sqlite:x.db")
    (tree / "a.txt").write_bytes(b"ALPHA")
    (tree / "b.bin").unlink()
    would = run("sync", "dir:tree", "sqlite:x.db", "--delete", "--dry-run")
    lines = "copy a.txt\ndelete b.bin\n"
    counts = "would be: 1 copied, 1 skipped, 0 failed, 1 deleted\n"
    assert (would.status, would.out) == (0, lines + counts)
    assert "Comparing" in would.err
    would = run("sync", "dir:tree", "sqlite:x.db", "--delete", "--dry-run", "--quiet")
    assert (would.status, would.out, would.err) == (0, lines, "")
    assert run("cat", "sqlite:x.db", "a.txt").out == "alpha"
    assert run("ls", "sqlite:x.db").out == "a.txt\nb.bin\nsub/c.txt\n"
    assert run("sync", "dir:tree", "sqlite:x.db").out == "1 copied, 1 skipped, 0 failed\n"
    assert run("cat", "sqlite:x.db", "a.txt").out == "ALPHA"
    assert run("ls", "sqlite:x.db").out == "a.txt\nb.bin\nsub/c.txt\n"
    result = run("sync", "dir:tree", "sqlite:x.db", "--delete", "--quiet")
    assert (result.status, result.out, result.err) == (0, "", "")
    assert run("ls", "sqlite:x.db").out == "a.txt\nsub/c.txt\n"


def test_sync_keeps_what_does_not_match(run, tree):
    run("copy", "dir:tree", "sqlite:x.db")
    (tree / "a.txt").unlink()
    (tree / "b.bin").unlink()
    run("sync", "dir:tree", "sqlite:x.db", "--delete", "--match", "*.txt")
    assert run("ls", "sqlite:x.db").out == "b.bin\nsub/c.txt\n"


def test_sync_keeps_what_is_newer_if_told(run, tree):
    os.utime(tree / "a.txt", (1e9, 1e9))
    run("put", "sqlite:x.db", "a.txt", str(tree / "sub" / "c.txt"))
    assert run("sync", "dir:tree", "sqlite:x.db", "--newer").status == 0
    assert run("cat", "sqlite:x.db", "a.txt").out == "gamma"
    assert run("sync", "dir:tree", "sqlite:x.db").status == 0
    assert run("cat", "sqlite:x.db", "a.txt").out == "alpha"


def test_a_dry_run_shows_keys_as_ls_does(run, folder):
    with SqliteStore("x.db") as store:
        store.from_bytes("new\nline", b"")
    with SqliteStore("y.db") as store:
        store.from_bytes("back\\slash", b"")
    would = run("sync", "sqlite:x.db", "sqlite:y.db", "--delete", "--dry-run")
    assert would.out.splitlines()[:2] == [r"copy new\nline", r"delete back\\slash"]


def test_no_message_shows_a_password(run, folder, monkeypatch):
    for kind in (DynamicURLStore, StaticURLStore):
        monkeypatch.setattr(kind, "connect", lambda self, credentials=None: None)
    (folder / "f").write_bytes(b"")
    url = "https://alibaba:open%20sesame@localhost/"
    for status, *arguments in (
        (1, "put", f"readonly::{url}", "k", "f"),
        (1, "rm", f"static:{url}", "k"),
        (1, "rm", f"readonly::{url}", "k"),
        (2, "ls", f"bogus::{url}"),
        (2, "ls", f"bogus{url}"),
        (2, "ls", "alibaba:open%20sesame@localhost"),
        (2, "ls", "https:/alibaba:open sesame@localhost"),
        (2, "ls", f"{url}::x", "*", url),
        (2, "query", "memory:", url),
        (2, url),
        (2, "compact", f"readonly::{url}"),
        (2, "upgrade", f"retry={url}::memory:"),
    ):
        result = run(*arguments)
        assert_one_line(result, status, "@localhost")
        for secret in ("sesame", "alibaba"):
            assert secret not in result.err


def test_a_dry_run_makes_no_target(run, tree):
    assert_one_line(run("sync", "dir:tree", "sqlite:x.db", "--dry-run"), 1, "x.db")
    assert not os.path.exists("x.db")


def test_copy_takes_options_of_both_stores(run, tree):
    options = ["--target-option", "durability=process", "--target-option", "index=true"]
    assert run("copy", "dir:tree", "fs:x", *options).status == 0
    options = ["--source-option", "index=true", "--target-option", "table=other"]
    assert run("copy", "fs:x", "sqlite:x.db", *options).status == 0
    result = run("copy", "dir:tree", "fs:y", "--source-option", "index=true")
    assert_one_line(result, 2, "'dir:tree' has no option 'index'")
    result = run("copy", "dir:tree", "fs:y", "--target-option", "durability=no")
    assert_one_line(result, 2, "durability")
    assert run("ls", "sqlite:x.db").out == ""
    assert run("ls", "sqlite:x.db", "--option", "table=other").out == run("ls", "fs:x").out != ""


def test_every_command_takes_options(run, store):
    put = ["put", "k", __file__]
    for command in (put, ["ls"], ["query"], ["cat", "a"], ["rm", "a"], ["info"]):
        result = run(command[0], "sqlite:x.db", *command[1:], "--option", "nonsense=1")
        assert_one_line(result, 2, "no option 'nonsense'")
    for command in ("check", "compact", "upgrade"):
        assert_one_line(run(command, "sqlite:x.db", "--option", "a"), 2, "'a' is not name=value")
    assert "process" in run("info", "sqlite:x.db", "--option", "durability=process").out


def test_interrupted_copy_says_so(run, tree, monkeypatch):
    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(SqliteStore, "set", interrupt)
    result = run("copy", "dir:tree", "sqlite:x.db")
    assert result.status == 130
    assert ", interrupted\n" in result.err
    assert result.err.splitlines()[-1] == "python -m encore: interrupted"


# ls, query


@pytest.fixture
def store(folder):
    with SqliteStore("x.db") as store:
        for key, metadata in {
            "plain": {"n": 1, "s": "x"},
            "two\nlines": {"n": 1.0},
            "back\\slash": {"n": True},
            "caf\u00e9 \U0001f600": {"n": None, "text": "\u00e9\x7f\u2028"},
            "\x1b[31mred\u202e": {},
        }.items():
            store.from_bytes(key, key.encode())
            store.set_metadata(key, metadata)
        yield store


def test_ls_lists_keys_in_order_one_a_line(run, store):
    assert run("ls", "sqlite:x.db").out.splitlines() == [
        "\\x1b[31mred\\u202e",
        "back\\\\slash",
        "caf\u00e9 \U0001f600",
        "plain",
        "two\\nlines",
    ]


def test_ls_lists_what_matches(run, store):
    assert run("ls", "sqlite:x.db", "*[sn]*").out == "back\\\\slash\nplain\ntwo\\nlines\n"


def test_ls_of_an_empty_store_is_empty(run):
    result = run("ls", "memory:")
    assert (result.status, result.out, result.err) == (0, "", "")


def test_query_prints_key_and_metadata(run, store):
    result = run("query", "sqlite:x.db", "n=1")
    assert result.out == 'plain\t{"n": 1, "s": "x"}\ntwo\\nlines\t{"n": 1.0}\n'
    assert run("query", "sqlite:x.db", "n=true").out == 'back\\\\slash\t{"n": true}\n'
    assert run("query", "sqlite:x.db", "n=1", "s=x").out == 'plain\t{"n": 1, "s": "x"}\n'
    assert run("query", "sqlite:x.db", "n=null").out == (
        'caf\u00e9 \U0001f600\t{"n": null, "text": "\\u00e9\\u007f\\u2028"}\n'
    )
    assert len(run("query", "sqlite:x.db").out.splitlines()) == 5


def test_query_selects_names(run, store):
    arguments = ("--select", "s", "--select", "absent")
    assert run("query", "sqlite:x.db", "s=x", *arguments).out == 'plain\t{"s": "x"}\n'
    assert run("query", *arguments, "sqlite:x.db", "s=x").out == 'plain\t{"s": "x"}\n'


def test_query_takes_any_name(run, folder):
    with SqliteStore("x.db") as store:
        store.set_metadata("k", {"select": 1, "where": 2, "odd name": 3, "": 4})
    assert run("query", "sqlite:x.db", "select=1", "where=2", "odd name=3", "=4").out[:2] == "k\t"


# cat, put, rm, info


def test_put_and_cat_are_byte_exact(run, folder):
    data = bytes(range(256)) * 10_000
    (folder / "file").write_bytes(data)
    assert run("put", "sqlite:new.db", "key", "file", "n=1", "s=text", 't="1"').status == 0
    with open("out", "wb") as out:
        result = finish(child("cat", "sqlite:new.db", "key", stdout=out))
    assert (result.status, result.err) == (0, "")
    assert (folder / "out").read_bytes() == data
    with SqliteStore("new.db") as store:
        assert store.get_metadata("key") == {"n": 1, "s": "text", "t": "1"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-1.5e3", -1500.0),
        ("true", True),
        ("null", None),
        ('"1"', "1"),
        ('{"a": [1]}', {"a": [1]}),
        ("", ""),
        ("a=b", "a=b"),
        ("NaN", "NaN"),
        ("-Infinity", "-Infinity"),
        ("[1", "[1"),
        ("True", "True"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_values_are_json_if_they_parse(text, value):
    assert pairs_of([f"x={text}"]) == {"x": value}


def test_put_makes_a_file_system_store(run, folder):
    (folder / "file").write_bytes(b"data")
    run("put", "fs:new", "key", "file")
    with FileSystemStore("new") as store:
        assert store.to_bytes("key") == b"data"


def test_put_replaces_data_and_metadata(run, folder, monkeypatch):
    (folder / "file").write_bytes(b"data")
    run("put", "sqlite:x.db", "key", "file", "a=1")
    run("put", "sqlite:x.db", "key", "file", "b=2")
    assert run("query", "sqlite:x.db").out == 'key\t{"b": 2}\n'


def test_put_of_a_missing_file_makes_no_store(run, folder):
    assert_one_line(run("put", "sqlite:new.db", "key", "no"), 1, "No such file", "no")
    assert_one_line(run("put", "fs:new", "key", "."), 1, "directory")
    assert list(folder.iterdir()) == []


def test_rm_deletes(run, store):
    assert run("rm", "sqlite:x.db", "plain").status == 0
    assert not store.exists("plain")
    assert_one_line(run("rm", "sqlite:x.db", "plain"), 1, "there is no key 'plain'")


@pytest.mark.parametrize("command", ["cat", "rm"])
def test_a_missing_key_is_one_line(run, store, command):
    assert_one_line(run(command, "sqlite:x.db", "no\nkey"), 1, r"there is no key 'no\nkey'")


def test_arguments_that_begin_with_a_dash_follow_two_dashes(run, folder):
    (folder / "-file").write_bytes(b"data")
    assert run("put", "sqlite:x.db", "--", "-key", "-file", "-n=1").status == 0
    assert run("cat", "sqlite:x.db", "--", "-key").out == "data"
    assert run("query", "sqlite:x.db", "--", "-n=1").out == '-key\t{"-n": 1}\n'


def test_a_missing_argument_may_have_begun_with_a_dash(run, folder):
    assert_one_line(run("rm", "sqlite:x.db", "-dash"), 2, "KEY", "-- goes before arguments")
    result = run("rm", "--", "sqlite:x.db")
    assert_one_line(result, 2, "KEY")
    assert "goes before" not in result.err


def test_a_database_in_memory_is_empty(run, folder):
    assert run("ls", "sqlite::memory:").out == ""
    assert list(folder.iterdir()) == []


def test_a_directory_that_is_no_store_comes_with_a_way_out(run, tree):
    for arguments in (("ls", "fs:tree"), ("copy", "memory:", "fs:tree")):
        assert_one_line(run(*arguments), 1, "dir:PATH reads any directory", "empty ones")


def test_missing_paths_are_shown_in_full(run, folder):
    (folder / "file").write_bytes(b"x")
    for name in ("sqlite:no", "fs:no", "dir:no"):
        assert_one_line(run("ls", name), 1, repr(str(folder / "no")))
    assert_one_line(run("put", "memory:", "key", "no"), 1, repr(str(folder / "no")))


def test_info_describes_the_store(run, tree):
    lines = run("info", "dir:tree").out.splitlines()
    assert "type: DirectoryStore" in lines
    assert "readonly: true" in lines


# Wrong use


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "COMMAND"),
        (["frobnicate"], "frobnicate"),
        (["cop"], "cop"),
        (["--frobnicate"], "required"),
        (["copy", "memory:"], "TARGET"),
        (["copy", "memory:", "memory:", "--over"], "--over"),
        (["copy", "memory:", "memory:", "x\ny"], r"x\ny"),
        (["ls"], "STORE"),
        (["ls", "nonsense"], "memory:, sqlite:PATH"),
        (["ls", "readonly:fs:x"], "WRAPPER::STORE"),
        (["ls", "hash=x::memory:"], "hash[=DIGITS]::STORE"),
        (["ls", "sqlite:"], "path is missing"),
        (["ls", "no_such_module_anywhere:make"], "no module"),
        (["cat", "memory:", ""], "not empty"),
        (["cat", "memory:", "x" * 1025], "1024"),
        (["cat", "memory:", "\udcff"], "UTF-8"),
        (["ls", "memory:", "\udcff"], "UTF-8"),
        (["copy", "memory:", "memory:", "--match", "\udcff"], "UTF-8"),
        (["query", "memory:", "x"], "'x' is not name=value"),
        (["query", "memory:", "x=1", "x=2"], "'x' is given twice"),
        (["query", "memory:", "x=\udcff"], "UTF-8"),
        (["query", "memory:", "x=1e999"], "inf"),
        (["put", "sqlite:new.db", "key", "-", "x"], "name=value"),
        (["put", "sqlite:new.db", "key", "-", "=5"], "name in metadata is missing"),
        (["ls", "memory:", ""], "empty pattern"),
        (["copy", "memory:", "memory:", "--match", ""], "empty pattern"),
        (["put", "sqlite:new.db", "key"], "FILE"),
    ],
)
def test_wrong_use_is_one_line_and_touches_nothing(run, folder, arguments, word):
    result = run(*arguments)
    assert_one_line(result, 2, word)
    assert result.out == ""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["sqlite:file", "fs:file", "dir:file", "fs:folder", "sqlite:no"])
def test_what_is_no_store_is_one_line(run, folder, name):
    (folder / "file").write_bytes(b"this is neither a database nor a directory" * 100)
    (folder / "folder").mkdir()
    assert_one_line(run("ls", name), 1, name.partition(":")[2])
    assert (folder / "file").read_bytes() == b"this is neither a database nor a directory" * 100


def test_help_has_examples(run):
    result = run("--help")
    assert result.status == 0
    assert "examples:" in result.out
    for line in result.out.splitlines():
        assert len(line) < 80
    commands = ["copy", "ls", "query", "cat", "put", "rm", "info", "demo"]
    for command in commands:
        text = run(command, "--help").out
        assert text.startswith(f"usage: python -m encore {command}")
        # Every argument has a line of its own, with a text.
        for argument in ("STORE", "KEY", "FILE", "SOURCE", "TARGET"):
            if argument in text.partition("\n\n")[0]:
                assert f"\n  {argument}  " in text
        assert max(map(len, text.splitlines())) < 80


def test_version(run):
    assert run("--version").out == f"encore {encore.__version__}\n"


def test_errors_of_any_kind_are_one_line(run, monkeypatch):
    for error, text in (
        (RuntimeError("odd\nthing"), r"RuntimeError: odd\nthing"),
        (KeyError(), "KeyError"),
        (StoreError(), "StoreError"),
        (StoreError("back\\slash"), "back\\slash"),
    ):

        def fail(arguments, error=error):
            raise error

        monkeypatch.setattr(commands, "info", fail)
        fail.__name__ = "info"
        assert_one_line(run("info", "memory:"), 1, text)


def test_interrupted_is_one_line(run, monkeypatch):
    def info(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "info", info)
    assert_one_line(run("info", "memory:"), 130, "interrupted")


def test_interrupted_is_said_even_if_the_store_cannot_be_closed_then(run, store, monkeypatch):
    def interrupt(self, key):
        raise KeyboardInterrupt

    def fail(self):
        try:
            raise OSError("of its own")
        except OSError as error:
            raise StoreError("cannot be closed") from error

    monkeypatch.setattr(SqliteStore, "get", interrupt)
    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "disconnect", fail)
        assert_one_line(run("cat", "sqlite:x.db", "plain"), 130, "interrupted")


def test_closed_streams_are_an_error(run, store, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert_one_line(run("put", "sqlite:x.db", "key", "-"), 1, "standard input is closed")
    monkeypatch.setattr(sys, "stdout", None)
    assert_one_line(run("cat", "sqlite:x.db", "plain"), 1, "standard output is closed")
    monkeypatch.setattr(sys, "stderr", None)
    assert run("cat", "sqlite:x.db", "plain").status == 1
    assert cli.main(["rm", "sqlite:x.db", "plain"]) == 0


def test_output_that_breaks_is_dropped(store, monkeypatch):
    class Broken(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    assert cli.main(["ls", "sqlite:x.db"]) == 141


# In a process of its own


def test_a_module_in_the_current_directory_is_found(folder):
    (folder / "mystores.py").write_text(
        "from encore.storage.api import DictMemoryStore\n"
        "def make():\n"
        "    store = DictMemoryStore()\n"
        "    store.from_bytes('mine', b'')\n"
        "    return store\n"
    )
    result = finish(child("ls", "mystores:make"))
    assert (result.status, result.out, result.err) == (0, "mine\n", "")


def test_a_dash_is_standard_input_and_output(folder):
    data = b"from a pipe\n" * 1000
    result = finish(child("put", "sqlite:x.db", "key", "-", "n=1", stdin=subprocess.PIPE), data)
    assert (result.status, result.out, result.err) == (0, "", "")
    assert finish(child("cat", "sqlite:x.db", "key")).out == data.decode()


def test_output_in_ascii_is_escaped(store):
    env = environment(PYTHONIOENCODING="ascii")
    result = finish(child("ls", "sqlite:x.db", "caf*", env=env))
    assert (result.status, result.out, result.err) == (0, "caf\\xe9 \\U0001f600\n", "")
    line = finish(child("query", "sqlite:x.db", "n=null", env=env)).out
    assert json.loads(line.partition("\t")[2]) == {"n": None, "text": "\u00e9\x7f\u2028"}
    assert_one_line(finish(child("cat", "sqlite:x.db", "\u20ac", env=env)), 1, "no key")


@pytest.mark.skipif(os.name != "posix", reason="needs byte arguments")
def test_undecodable_arguments_are_an_error(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "encore", "cat", "memory:", b"\xff"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUTF8="1"),
    )
    assert_one_line(finish(process), 2, "UTF-8")


def test_a_reader_that_goes_away_ends_it_silently(folder):
    with SqliteStore("x.db") as store, store.transaction():
        # More than the pipe takes.
        for number in range(2000):
            store.from_bytes(f"{number:0500}", b"")
        store.from_bytes("large", bytes(5_000_000))
    for arguments in (["ls", "sqlite:x.db"], ["cat", "sqlite:x.db", "large"]):
        process = child(*arguments)
        assert process.stdout.read(1)
        process.stdout.close()
        process.stdout = None
        result = finish(process)
        assert (result.status, result.err) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error(store):
    with open("/dev/full", "wb") as full:
        assert_one_line(finish(child("ls", "sqlite:x.db", stdout=full)), 1, "No space")


# Interruptions: the source below halts in the middle, says so, and waits to be killed.

HALTING = """\
import os, signal, sys
from encore.storage.directory_store import DirectoryStore

# Ignored where the tests were started with nohup or in the background of a shell.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Halting(DirectoryStore):
    reads = 0

    def get(self, key):
        self.reads += 1
        # The first pass over all keys finds the total.
        if self.reads == 500 + 450:
            os.write(int(os.environ["READY"]), b"!")
            os.read(int(os.environ["FOREVER"]), 1)
        return super().get(key)

def make():
    return Halting("many")
"""


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and inherited pipes")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
@pytest.mark.parametrize("target", ["sqlite:x.db", "fs:x"])
def test_an_interrupted_copy_is_whole_and_goes_on(run, folder, number, status, target):
    many = folder / "many"
    many.mkdir()
    for index in range(500):
        (many / f"{index:03}").write_bytes(b"%d" % index * (index % 50))
    (folder / "halting.py").write_text(HALTING)
    ready_out, ready_in = os.pipe()
    forever_out, forever_in = os.pipe()
    process = child(
        "copy",
        "halting:make",
        target,
        env=environment(READY=str(ready_in), FOREVER=str(forever_out)),
        pass_fds=(ready_in, forever_out),
    )
    os.close(ready_in)
    os.close(forever_out)
    # An end of file, not a wait without end, if the child dies before.
    assert os.read(ready_out, 1) == b"!"
    process.send_signal(number)
    result = finish(process)
    os.close(ready_out)
    os.close(forever_in)
    assert result.status == status
    if status == 130:
        assert result.err.splitlines()[-1] == "python -m encore: interrupted"
        assert "Traceback" not in result.err
    keys = run("ls", target).out.split()
    # What was committed is there, whole; the batch in hand is not.
    assert len(keys) == 400
    result = run("copy", "dir:many", target)
    assert (result.status, result.out) == (0, "100 copied, 400 skipped, 0 failed\n")
    from encore.storage.opener import open_store

    with open_store(target) as store:
        assert dict(store.mapping()) == files_of(many)


# The documentation


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_the_session_in_the_documentation_is_true(folder):
    docs = Path(__file__).resolve().parent.parent / "docs"
    pages = [path for path in docs.rglob("command-line.rst") if "\n    $ " in path.read_text()]
    if not pages:
        pytest.skip("the documentation is not here")
    steps = []
    inside = False
    for line in pages[0].read_text().splitlines():
        if line.startswith("    $ "):
            steps.append((line[6:], []))
            inside = True
        elif line.startswith("    ") and inside:
            steps[-1][1].append(line[4:])
        else:
            inside = inside and not line
    assert len(steps) > 10
    for command, expected in steps:
        shell = subprocess.run(
            ["sh", "-c", f'python() {{ "$PYTHON" "$@"; }}\n{command}'],
            env=environment(PYTHON=sys.executable),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        # Lines of progress are not in the documentation.
        messages = [line for line in shell.stderr.splitlines() if line.startswith("python ")]
        lines = messages + shell.stdout.splitlines()
        if expected[-1:] == ["..."]:
            del expected[-1]
            assert lines[: len(expected)] == expected
        else:
            assert lines == expected


MAINTAINED = """\
from encore.storage.api import DictMemoryStore, Finding

class Store(DictMemoryStore):
    def check(self):
        return [Finding("k\\n", "no data"), Finding(None, "an odd file")]

    def compact(self):
        print("compacting")

    def upgrade(self):
        return 3

class Mended(Store):
    def repair(self):
        return [Finding("k", "no data", "mended")]

class Lost(Store):
    def repair(self):
        return [Finding("k", "no data", "lost")]
"""


@pytest.fixture
def maintained(folder, monkeypatch):
    (folder / "maintained.py").write_text(MAINTAINED)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("arguments", "status", "out"),
    [
        (("check", "memory:"), 0, ""),
        (("check", "maintained:Store"), 1, "'k\\n': no data\nan odd file\n"),
        (("check", "maintained:Mended", "--repair"), 0, "'k': no data (mended)\n"),
        (("check", "maintained:Lost", "--repair"), 1, "'k': no data (lost)\n"),
        (("compact", "maintained:Store"), 0, "compacting\n"),
        (("upgrade", "maintained:Store"), 0, "3 rewritten\n"),
    ],
)
def test_maintenance(run, maintained, arguments, status, out):
    result = run(*arguments)
    assert (result.status, result.out, result.err) == (status, out, "")


@pytest.mark.parametrize("command", [("check", "--repair"), ("compact",), ("upgrade",)])
def test_maintenance_that_a_store_does_not_have(run, command):
    assert_one_line(run(*command, "memory:"), 2, "DictMemoryStore", "has no")
