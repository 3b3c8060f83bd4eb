"""What a recorded program leaves after a power cut: exactly what the model of the disk allows."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import unittest

import pytest

from encore.storage.dict_memory_store import DictMemoryStore
from encore.testing import _strace
from encore.testing.power_cut import PowerCuts, Recording, UnsupportedCall, record, why_not

needs_strace = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

HELPERS = """
import os, sys, mmap, threading
folder = sys.argv[1]
def path(name):
    return os.path.join(folder, name)
def opened(name, flags=os.O_WRONLY | os.O_CREAT):
    return os.open(path(name), flags)
def sync(name):
    fd = os.open(path(name), os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
def say(word):
    os.write(1, word.encode() + b"\\n")
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "recorded"
    (folder / "d").mkdir(parents=True)
    (folder / "old").write_bytes(b"old")
    return folder


def recorded(folder, code, **options):
    return record([sys.executable, "-c", HELPERS + code, str(folder)], folder, **options)


def look(folder):
    """Return the files below a directory; None stands for a directory."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            path = os.path.join(place, name)
            label = os.path.relpath(path, folder)
            if os.path.islink(path):
                found[label] = "-> " + os.readlink(path)
            elif os.path.isdir(path):
                found[label] = None
            else:
                with open(path, "rb") as file:
                    found[label] = file.read()
    return found


def outcomes(folder, code, cuts="cuts", **options):
    """Return what may be found at the end of a program, but for what was there before."""
    recording = recorded(folder, code + "\nsay('end')")
    found = []
    for number, cut in enumerate(getattr(recording, cuts)(**options)):
        if "end" in cut.lines:
            target = folder.parent / str(number)
            target.mkdir()
            cut.build(target)
            files = look(target)
            if files.pop("d", 0) is None and files.get("old") == b"old":
                del files["old"]
            if files not in found:
                found.append(files)
    return found


def same(found, *expected):
    key = repr
    assert sorted(found, key=key) == sorted(expected, key=key)


@needs_strace
class TestWhatArrives:
    def test_nothing_of_what_is_not_synced_need_arrive(self, folder):
        found = outcomes(folder, "os.write(opened('a'), b'data')")
        same(found, {}, {"a": b""}, {"a": b"data"}, {"a": bytes(4)})

    def test_a_synced_file_may_lose_its_name(self, folder):
        found = outcomes(folder, "fd = opened('a'); os.write(fd, b'data'); os.fsync(fd)")
        same(found, {}, {"a": b"data"})

    def test_a_synced_name_may_lose_its_data(self, folder):
        found = outcomes(folder, "os.write(opened('a'), b'data'); sync('.')")
        same(found, {"a": b""}, {"a": b"data"}, {"a": bytes(4)})

    def test_what_is_synced_stays(self, folder):
        code = "fd = opened('a'); os.write(fd, b'data'); os.fdatasync(fd); sync('.')"
        same(outcomes(folder, code), {"a": b"data"})

    def test_sync_saves_everything(self, folder):
        same(outcomes(folder, "os.write(opened('d/a'), b'x'); os.sync()"), {"d/a": b"x"})

    def test_any_part_of_what_is_written_after_the_sync(self, folder):
        code = """
fd = opened('a'); sync('.')
os.write(fd, b'one'); os.fsync(fd)
os.write(fd, b'two'); os.pwrite(fd, b'xyz', 0)
"""
        found = outcomes(folder, code)
        for files in found:
            assert set(files) == {"a"}
            assert files["a"] in (b"one", b"onetwo", b"xyz", b"xyztwo", b"one" + bytes(3))
        assert {"a": b"one"} in found
        assert {"a": b"onetwo"} in found
        assert {"a": b"xyztwo"} in found

    def test_writes_are_torn_between_sectors(self, folder):
        code = "fd = opened('a'); sync('.'); os.pwrite(fd, b'x' * 2000, 100)"
        sizes = set()
        for files in outcomes(folder, code):
            data = files["a"]
            sizes.add(len(data))
            assert data[:100] == bytes(min(100, len(data)))
            edges = [100, 512, 1024, 1536, 2048, 2100]
            assert len(data) in [0, *edges[1:]]
            for start, end in itertools.pairwise(edges):
                assert data[start:end] in (b"", b"x" * (end - start), bytes(end - start))
        assert {0, 2100} < sizes

    def test_renamed_before_the_data_are_synced(self, folder):
        code = "os.write(opened('new'), b'new'); os.rename(path('new'), path('old')); sync('.')"
        found = outcomes(folder, code)
        assert {"old": b""} in found
        assert {"old": b"new"} in found
        assert all(set(files) == {"old"} for files in found)

    def test_a_rename_is_old_or_new(self, folder):
        code = """
fd = opened('new'); os.write(fd, b'new'); os.fsync(fd); sync('.')
os.rename(path('new'), path('old'))
"""
        same(outcomes(folder, code), {"new": b"new"}, {"old": b"new"})

    def test_a_file_that_changes_directory_keeps_one_name_at_least(self, folder):
        code = """
fd = opened('new'); os.write(fd, b'new'); os.fsync(fd); sync('.')
os.rename(path('new'), path('d/new'))
"""
        both = {"new": b"new", "d/new": b"new"}
        same(outcomes(folder, code), {"new": b"new"}, {"d/new": b"new"}, both)
        # The directory that it left is synced.
        other = folder.parent / "other"
        (other / "d").mkdir(parents=True)
        same(outcomes(other, code + "sync('.')"), {"d/new": b"new"})

    def test_only_the_first_changes_of_a_directory_arrive(self, folder):
        code = "opened('a'); opened('b'); opened('d/x'); opened('d/y')"
        found = outcomes(folder, code)
        assert {"a": b"", "b": b"", "d/x": b"", "d/y": b""} in found
        assert {"a": b""} in found
        assert {"d/x": b"", "d/y": b""} in found
        for files in found:
            assert "a" in files or "b" not in files
            assert "d/x" in files or "d/y" not in files

    def test_a_new_directory_may_be_lost_with_all_that_was_synced_in_it(self, folder):
        code = """
os.mkdir(path('e'))
fd = opened('e/a'); os.write(fd, b'data'); os.fsync(fd); sync('e')
"""
        same(outcomes(folder, code), {}, {"e": None, "e/a": b"data"})

    def test_what_is_removed_may_come_back(self, folder):
        code = "opened('a'); sync('.'); os.unlink(path('a'))"
        same(outcomes(folder, code), {}, {"a": b""})

    def test_links(self, folder):
        code = "os.link(path('old'), path('hard')); os.symlink('old', path('soft')); sync('.')"
        (files,) = outcomes(folder, code)
        assert files == {"hard": b"old", "soft": "-> old"}

    def test_links_are_of_one_file(self, folder):
        *_, cut = recorded(folder, "os.link(path('old'), path('d/hard')); sync('d')").kills()
        made = folder.parent / "made"
        made.mkdir()
        cut.build(made)
        assert (made / "old").stat().st_nlink == 2

    def test_sizes(self, folder):
        code = """
fd = opened('old', os.O_RDWR); os.ftruncate(fd, 1); os.fsync(fd)
os.ftruncate(fd, 2); os.truncate(path('old'), 3); os.posix_fallocate(fd, 0, 4)
"""
        found = {files["old"] for files in outcomes(folder, code)}
        assert found == {b"o", b"o\0", b"o\0\0", b"o\0\0\0"}

    def test_opened_to_be_overwritten(self, folder):
        code = "fd = opened('old', os.O_WRONLY | os.O_TRUNC); os.write(fd, b'n'); os.fsync(fd)"
        same(outcomes(folder, code), {"old": b"n"})

    def test_positions(self, folder):
        code = """
fd = opened('old', os.O_WRONLY | os.O_APPEND); os.write(fd, b'er'); os.fsync(fd)
fd = opened('a'); os.writev(fd, [b'ab', b'cd']); os.lseek(fd, 1, 0); os.write(fd, b'x')
os.pwritev(fd, [b'yz', b'!'], 5); os.fsync(fd); sync('.')
"""
        same(outcomes(folder, code), {"old": b"older", "a": b"axcd\0yz!"})

    def test_times(self, folder):
        code = """
fd = opened('old', os.O_WRONLY)
os.utime(fd, ns=(1, 10**9 + 5)); os.fsync(fd)
os.utime(path('old'), ns=(1, 2 * 10**9 + 6)); os.fdatasync(fd)
"""
        times = set()
        for number, cut in enumerate(recorded(folder, code + "say('end')").cuts()):
            if cut.lines:
                made = folder.parent / str(number)
                made.mkdir()
                cut.build(made)
                times.add((made / "old").stat().st_mtime_ns)
        assert times == {10**9 + 5, 2 * 10**9 + 6}

    def test_a_file_without_a_name(self, folder):
        code = """
fd = os.open(folder, os.O_RDWR | os.O_TMPFILE); os.write(fd, b'gone'); os.fsync(fd)
fd = opened('old', os.O_RDWR); os.unlink(path('old')); os.write(fd, b'new'); sync('.')
"""
        same(outcomes(folder, code), {})

    def test_a_kill_loses_nothing(self, folder):
        code = "os.write(opened('a'), b'data'); os.rename(path('a'), path('d/b'))"
        same(outcomes(folder, code, "kills"), {"d/b": b"data"})

    def test_ignored_files(self, folder):
        code = """
fd = opened('x-shm', os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096)
mmap.mmap(fd, 4096)[:1] = b'x'; os.unlink(path('x-shm')); say('end')
"""
        assert [cut.lines for cut in recorded(folder, code).cuts()] == [[], ["end"]]

    def test_relative_paths(self, folder):
        code = """
os.chdir(folder); os.mkdir('e'); os.rename('old', 'e/old')
fd = os.open('e', os.O_RDONLY); os.rename('old', 'older', src_dir_fd=fd, dst_dir_fd=fd)
os.fsync(fd); sync('.')
"""
        same(outcomes(folder, code), {"e": None, "e/older": b"old"})

    def test_threads(self, folder):
        code = """
def work(name):
    for n in range(20):
        fd = opened(name); os.pwrite(fd, b'%d' % n, 0); os.fsync(fd); os.close(fd)
threads = [threading.Thread(target=work, args=(name,)) for name in ('a', 'b', 'c', 'd/d')]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
sync('.'); sync('d')
"""
        data = b"19"
        assert outcomes(folder, code) == [{"a": data, "b": data, "c": data, "d/d": data}]


@needs_strace
@pytest.mark.parametrize(
    "code",
    [
        "mmap.mmap(os.open(path('old'), os.O_RDWR), 3)",
        "os.sendfile(opened('old'), os.open(sys.executable, os.O_RDONLY), 0, 10)",
        "os.copy_file_range(os.open(path('old'), os.O_RDONLY), opened('new'), 3)",
        "opened('old', os.O_WRONLY | os.O_SYNC)",
        "os.mkfifo(path('fifo'))",
        "os.write(os.dup(opened('new')), b'x')",
        "os.pwritev(opened('new'), [b'x'], 0, os.RWF_DSYNC)",
        "import ctypes; ctypes.CDLL(None).fallocate(opened('old'), 3, 0, 1)",
        "os.close(os.open(folder + '/../x', os.O_CREAT)); os.rename(folder + '/../x', path('x'))",
    ],
)
def test_what_the_model_does_not_know_is_refused(folder, code):
    with pytest.raises(UnsupportedCall):
        recorded(folder, code)


@needs_strace
def test_cuts_know_what_was_said(folder):
    code = "opened('a'); say('one'); sync('.'); say('two')"
    recording = recorded(folder, code)
    assert repr(recording) == f"<recording of {len(recording.steps)} steps>"
    assert len(recording.steps) == 4
    lines = [cut.lines for cut in recording.kills()]
    assert lines == [[], [], ["one"], ["one", "two"]]
    (first, last) = recording.cuts(after_lines=True)
    assert (first.lines, last.lines) == (["one"], ["one", "two"])
    assert "names in .: 0 of 1" in repr(first)
    assert "everything was synced" in last.what
    assert isinstance(recording, Recording)


@needs_strace
def test_samples_are_repeatable(folder):
    recording = recorded(folder, "for n in range(20): os.write(opened(f'{n}'), b'x' * 1000)")
    first = [cut.what for cut in recording.cuts(30, "seed")]
    assert len(first) == 30
    assert first == [cut.what for cut in recording.cuts(30, "seed")]
    assert first != [cut.what for cut in recording.cuts(30, "other")]
    assert len(list(recording.kills(5))) == 5


@needs_strace
def test_a_program_that_fails_is_reported(folder):
    with pytest.raises(RuntimeError, match=r"(?s)exit status 3 of .*never mind"):
        recorded(folder, "print('never mind', file=sys.stderr); sys.exit(3)")


@needs_strace
def test_standard_input_and_time(folder):
    recording = recorded(folder, "say(sys.stdin.read())", stdin=b"word")
    assert [cut.lines for cut in recording.kills()] == [[], ["word"]]
    with pytest.raises(subprocess.TimeoutExpired):
        recorded(folder, "sys.stdout.flush(); threading.Event().wait()", timeout=0.1)


def skipped():
    class Volatile(PowerCuts, unittest.TestCase):
        def make_store_in(self, folder):
            return DictMemoryStore()

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Volatile).run(result)
    assert result.testsRun == len(result.skipped) == 2
    assert not result.failures + result.errors
    return {reason for _, reason in result.skipped}


@needs_strace
def test_a_store_that_promises_nothing_is_not_checked():
    assert skipped() == {"info()['durable'] is 'none'"}


def test_without_strace_the_checks_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    _strace.why_not.cache_clear()
    try:
        assert why_not() == "strace is not installed"
        assert skipped() == {"strace is not installed"}
        with pytest.raises(RuntimeError, match="strace is not installed"):
            record(["true"], tmp_path)
        (tmp_path / "strace").write_text("#!/bin/sh\necho 'strace: not permitted' >&2; exit 1\n")
        (tmp_path / "strace").chmod(0o755)
        _strace.why_not.cache_clear()
        assert why_not() == "strace does not run here: strace: not permitted"
    finally:
        _strace.why_not.cache_clear()


def test_calls_that_overlap():
    lines = [
        r'7 1.5 write(3<\x2f\x61>, "\x61\x62", 2 <unfinished ...>',
        r"8 2.000001 fsync(4<\x2f\x62>(deleted)) = 0",
        r"7 3.000002 <... write resumed>) = 2",
        r"8 4.0 fsync(4<\x2f\x62>) = -1 EIO (Input/output error)",
        r"8 4.0 fsync(4<\x2f\x62> <unfinished ...>",
        r"8 5.0 <... fsync resumed>) = ?",
        r"8 6.0 --- SIGCHLD {si_signo=SIGCHLD} ---",
        r"8 6.0 +++ killed by SIGKILL +++",
        "strace: something else",
        "",
    ]
    first, second = _strace.parse(lines)
    assert (first.name, first.serial, first.started) == ("fsync", 0, 0)
    assert first.files == [("4", b"/b (deleted)")]
    assert first.time == 2_000_001_000
    assert (second.name, second.serial, second.started) == ("write", 1, 0)
    assert (second.files, second.strings, second.result) == ([("3", b"/a")], [b"ab"], 2)
    assert repr(second) == "write(3</a>, 'ab', 2)"
    with pytest.raises(ValueError, match="cut off"):
        list(_strace.parse([r'7 1.5 write(3<\x2f\x61>, "\x61"..., 2) = 2']))
