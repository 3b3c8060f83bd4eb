"""A disk that loses at a power cut what was not synced.

Of a file survives what it held when it was last synced, and any part of what was done since: each
change can arrive or not, a write also in part, by sectors, or as zeros where it made the file
longer. Of a directory survive the names that it had when it was last synced, and the first so many
of the changes since; what happens to one directory says nothing about another. One thing is
granted, as every journaling file system grants it: a file that is renamed does not lose both names.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from random import Random
from typing import TYPE_CHECKING

from ._disk_nodes import WAYS, Change, Directory, File, Image, Link, Loss
from ._strace import DELETED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._disk_nodes import Node
    from ._strace import Call

# Of a long list of changes, so many places are tried.
_PLACES = 4

_TIME = re.compile(r"UTIME_NOW|UTIME_OMIT|\{tv_sec=(-?\d+), tv_nsec=(\d+)\}")


class UnsupportedCall(Exception):
    """A file was changed in a way that the model of the disk does not know."""


class Disk:
    """The files below a directory.

    Parameters
    ----------
    folder : str
        What is there now is on the disk.
    ignored : iterable of str
        Patterns of the names of files that are left out.
    """

    def __init__(self, folder: str, ignored: Iterable[str]) -> None:
        self._folder = os.fsencode(os.path.realpath(folder))
        self._ignored = [os.fsencode(pattern) for pattern in ignored]
        self._cwd = os.fsencode(os.getcwd())
        self.root = self._read(self._folder, b".")
        self._positions: dict[tuple[str, File], int | None] = {}
        self._gone: dict[bytes, Node] = {}

    def _read(self, path: bytes, label: bytes) -> Directory:
        directory = Directory(label)
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if self._is_ignored(entry.name):
                    continue
                inner = os.path.join(label, entry.name)
                node: Node
                if entry.is_symlink():
                    node = Link(os.readlink(entry.path))
                elif entry.is_dir():
                    node = self._read(entry.path, inner)
                else:
                    with open(entry.path, "rb") as file:
                        node = File(inner, file.read(), entry.stat().st_mtime_ns)
                directory.names[entry.name] = directory.saved[entry.name] = node
        return directory

    # What the calls do

    def apply(self, call: Call) -> bool:
        """Do what a call did; return whether it concerned the files of the disk."""
        done: bool = getattr(self, f"_{_METHODS[call.name]}")(call)
        return done

    def holds(self, path: bytes) -> bool:
        """Whether a path is below the directory."""
        return path == self._folder or path.startswith(self._folder + b"/")

    def _is_ignored(self, name: bytes) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self._ignored)

    def _place(self, path: bytes) -> tuple[Directory, bytes] | None:
        """Return the directory of a path, and its name there; None if it is not of the disk."""
        path = os.path.normpath(os.path.join(self._cwd, path))
        if not self.holds(path) or path == self._folder:
            return None
        *folders, name = path[len(self._folder) + 1 :].split(b"/")
        directory = self.root
        for folder in folders:
            inner = directory.names.get(folder)
            if not isinstance(inner, Directory):
                raise UnsupportedCall(f"{path!r} is reached through what is no directory")
            directory = inner
        return None if self._is_ignored(name) else (directory, name)

    def _node(self, path: bytes) -> Node | None:
        """Return what a path or an open file is, None if it is not of the disk."""
        if path.endswith(DELETED):
            return self._gone.get(path[: -len(DELETED)])
        if os.path.normpath(os.path.join(self._cwd, path)) == self._folder:
            return self.root
        place = self._place(path)
        return None if place is None else place[0].names.get(place[1])

    def _file(self, path: bytes) -> File | None:
        node = self._node(path)
        return node if isinstance(node, File) else None

    def _paths(self, call: Call) -> list[bytes]:
        """Return the paths that a call was given, with the directories they are relative to."""
        folders = [path for _, path in call.files]
        if len(folders) != len(call.strings):
            folders = [self._cwd] * len(call.strings)
        return [os.path.join(*both) for both in zip(folders, call.strings, strict=True)]

    def _change_directory(self, call: Call) -> bool:
        self._cwd = os.path.join(self._cwd, (call.strings or [call.files[0][1]])[0])
        return False

    def _open(self, call: Call) -> bool:
        assert call.opened is not None
        writes = "O_WRONLY" in call.text or "O_RDWR" in call.text or call.name == "creat"
        if not writes or not self.holds(call.opened):
            return False
        if "O_SYNC" in call.text or "O_DSYNC" in call.text:
            raise UnsupportedCall(str(call))
        if "O_TMPFILE" in call.text:
            # It never has a name.
            nameless = File(b"a file without a name")
            self._gone[call.opened.removesuffix(DELETED)] = nameless
            self._positions[str(call.result), nameless] = 0
            return False
        place = self._place(call.opened)
        if place is None:
            return False
        directory, name = place
        node = directory.names.get(name)
        changed = False
        if node is None:
            node = File(call.opened[len(self._folder) + 1 :], mtime=call.time)
            directory.change(call, {name: node})
            changed = True
        if not isinstance(node, File):
            raise UnsupportedCall(str(call))
        if not changed and ("O_TRUNC" in call.text or call.name == "creat"):
            node.pending.append(Change(call, size=0))
            changed = True
        self._positions[str(call.result), node] = None if "O_APPEND" in call.text else 0
        return changed

    def _write(self, call: Call) -> bool:
        fd, path = call.files[0]
        file = self._file(path)
        if file is None or not call.result:
            return False
        data = b"".join(call.strings)[: call.result]
        if call.name == "pwritev2":
            *_, offset, flags = call.numbers
            if flags or "RWF_" in call.text:
                raise UnsupportedCall(str(call))
        elif call.name.startswith("p"):
            offset = call.numbers[-1]
        else:
            if (fd, file) not in self._positions:
                raise UnsupportedCall(f"at a position that is not known: {call}")
            position = self._positions[fd, file]
            offset = len(file.content(file.pending)[0]) if position is None else position
            if position is not None:
                self._positions[fd, file] = offset + call.result
        file.pending.append(Change(call, data=data, offset=offset))
        return True

    def _seek(self, call: Call) -> bool:
        fd, path = call.files[0]
        file = self._file(path)
        if file is not None and self._positions.get((fd, file), 0) is not None:
            self._positions[fd, file] = call.result
        return False

    def _truncate(self, call: Call) -> bool:
        file = self._file(call.files[0][1] if call.files else call.strings[0])
        if file is None:
            return False
        size = call.numbers[-1]
        if call.name == "fallocate":
            if len(call.numbers) < 3 or call.numbers[0]:
                raise UnsupportedCall(str(call))
            size = max(sum(call.numbers[-2:]), len(file.content(file.pending)[0]))
        file.pending.append(Change(call, size=size))
        return True

    def _touch(self, call: Call) -> bool:
        file = self._file(self._paths(call)[0] if call.strings else call.files[0][1])
        if file is None:
            return False
        times = list(_TIME.finditer(call.text))
        time = times[1] if len(times) > 1 else None
        if time is not None and time[0] == "UTIME_OMIT":
            return False
        change = Change(call)
        if time is not None and time[1] is not None:
            change.time = int(time[1]) * 10**9 + int(time[2])
        file.pending.append(change)
        return True

    def _rename(self, call: Call) -> bool:
        source, target = self._paths(call)
        old, new = self._place(source), self._place(target)
        if old is None and new is None:
            return False
        if "RENAME_EXCHANGE" in call.text or old is None:
            raise UnsupportedCall(str(call))
        node = old[0].names[old[1]]
        if new is None:
            old[0].change(call, {old[1]: None})
            return True
        replaced = new[0].names.get(new[1])
        if replaced is node:
            return False
        if replaced is not None:
            self._gone[os.path.join(self._folder, target)] = replaced
        if old[0] is new[0]:
            old[0].change(call, {old[1]: None, new[1]: node})
        else:
            old[0].change(call, {old[1]: None}, new[0].change(call, {new[1]: node}))
        return True

    def _unlink(self, call: Call) -> bool:
        path = self._paths(call)[0]
        place = self._place(path)
        if place is None:
            return False
        directory, name = place
        self._gone[os.path.join(self._folder, path)] = directory.names[name]
        directory.change(call, {name: None})
        return True

    def _link(self, call: Call) -> bool:
        source, target = self._paths(call)
        new = self._place(target)
        if new is None:
            return False
        node = self._node(source)
        if node is None:
            raise UnsupportedCall(str(call))
        new[0].change(call, {new[1]: node})
        return True

    def _symlink(self, call: Call) -> bool:
        folder = call.files[0][1] if call.files else self._cwd
        place = self._place(os.path.join(folder, call.strings[1]))
        if place is None:
            return False
        place[0].change(call, {place[1]: Link(call.strings[0])})
        return True

    def _make_directory(self, call: Call) -> bool:
        path = self._paths(call)[0]
        place = self._place(path)
        if place is None:
            return False
        place[0].change(call, {place[1]: Directory(path[len(self._folder) + 1 :])})
        return True

    def _sync(self, call: Call) -> bool:
        node = self._node(call.files[0][1])
        if isinstance(node, File):
            node.save(call.started, call.name == "fsync")
        elif isinstance(node, Directory):
            node.save(call.started)
        else:
            return False
        return True

    def _sync_all(self, call: Call) -> bool:
        for node in self._nodes():
            node.save(call.started)
        return True

    def _map(self, call: Call) -> bool:
        if "MAP_SHARED" in call.text and "PROT_WRITE" in call.text:
            self._unsupported(call)
        return False

    def _unsupported(self, call: Call) -> bool:
        # The target of sendfile() comes first, that of the others last.
        place = 0 if call.name == "sendfile" else -1
        for path in [*call.strings, *(path for _, path in call.files[place:][:1])]:
            whole = os.path.join(self._cwd, path)
            if self.holds(whole) and not self._is_ignored(os.path.basename(whole)):
                raise UnsupportedCall(str(call))
        return False

    def _never(self, call: Call) -> bool:
        raise UnsupportedCall(str(call))

    # What a power cut leaves

    def _nodes(self) -> list[File | Directory]:
        """Return everything that can be there after a power cut."""
        found: dict[Node, None] = {self.root: None}
        waiting = [self.root]
        while waiting:
            directory = waiting.pop()
            inner = [*directory.saved.values()]
            for renaming in directory.pending:
                inner.extend(node for node in renaming.names.values() if node is not None)
            for node in inner:
                if node not in found:
                    found[node] = None
                    if isinstance(node, Directory):
                        waiting.append(node)
        return [node for node in found if not isinstance(node, Link)]

    def losses(self, random: Random) -> Iterator[Loss]:
        """Walk over what may arrive of what was not synced; first nothing, then everything."""
        yield Loss(False, False)
        unsynced = [node for node in self._nodes() if node.pending]
        if not unsynced:
            return
        yield Loss(True, True)
        yield Loss(True, False)
        yield Loss(False, True)
        directories = [node for node in unsynced if isinstance(node, Directory)]
        files = [node for node in unsynced if isinstance(node, File)]
        for directory in directories:
            for place in _some(len(directory.pending), random):
                for others in (True, False):
                    loss = Loss(others, True)
                    loss.names[directory] = place + (not others)
                    yield loss
        for file in files:
            for place in _some(len(file.pending), random):
                for way in WAYS:
                    for others in (True, False):
                        loss = Loss(True, others, random.getrandbits(32))
                        loss.data[file] = way, place
                        yield loss
        for _ in range(len(unsynced)):
            loss = Loss(True, True, random.getrandbits(32))
            for directory in directories:
                loss.names[directory] = random.randint(0, len(directory.pending))
            for file in files:
                loss.data[file] = random.choice(WAYS), random.randint(0, len(file.pending))
            yield loss

    def image(self, loss: Loss) -> Image:
        """Return the files there are if so much arrives."""
        image = Image()
        counts = self._counts(loss)
        waiting = [(b"", self.root)]
        while waiting:
            path, directory = waiting.pop()
            names = dict(directory.saved)
            for renaming in directory.pending[: counts.get(directory, 0)]:
                renaming.apply(names)
            for name, node in names.items():
                inner = os.path.join(path, name)
                if isinstance(node, File):
                    image.add(inner, node, *node.content(loss.of_data(node)))
                else:
                    image.add(inner, node)
                if isinstance(node, Directory):
                    waiting.append((inner, node))
        return image

    def _counts(self, loss: Loss) -> dict[Directory, int]:
        """Return how many changes of directories arrive: no renamed file loses both names."""
        nodes = [node for node in self._nodes() if isinstance(node, Directory) and node.pending]
        counts = {node: loss.of_names(node) for node in nodes}
        changed = True
        while changed:
            changed = False
            for node in nodes:
                for place, renaming in enumerate(node.pending[: counts[node]]):
                    added = renaming.added
                    if (
                        added is not None
                        and added in added.directory.pending[counts.get(added.directory, 0) :]
                    ):
                        counts[node] = place
                        changed = True
                        break
        return counts

    def describe(self, loss: Loss) -> str:
        """Say what arrives of what was not synced."""
        counts = self._counts(loss)
        told = []
        for node in self._nodes():
            if node.pending:
                label = os.fsdecode(node.label)
                if isinstance(node, Directory):
                    told.append(f"names in {label}: {counts[node]} of {len(node.pending)}")
                else:
                    told.append(f"data of {label}: {loss.describe(node)}")
        return "; ".join(told) or "everything was synced"


def _some(count: int, random: Random) -> Sequence[int]:
    return range(count) if count <= _PLACES else sorted(random.sample(range(count), _PLACES))


_METHODS = {
    **dict.fromkeys(("open", "openat", "openat2", "creat"), "open"),
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "pwritev2"), "write"),
    **dict.fromkeys(("truncate", "ftruncate", "fallocate"), "truncate"),
    **dict.fromkeys(("rename", "renameat", "renameat2"), "rename"),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), "unlink"),
    **dict.fromkeys(("link", "linkat"), "link"),
    **dict.fromkeys(("symlink", "symlinkat"), "symlink"),
    **dict.fromkeys(("mkdir", "mkdirat"), "make_directory"),
    **dict.fromkeys(("fsync", "fdatasync"), "sync"),
    **dict.fromkeys(("sync", "syncfs"), "sync_all"),
    **dict.fromkeys(("chdir", "fchdir"), "change_directory"),
    **dict.fromkeys(
        (
            *("mknod", "mknodat", "utime", "utimes", "futimesat"),
            *("copy_file_range", "sendfile", "splice"),
        ),
        "unsupported",
    ),
    **dict.fromkeys(("io_uring_setup", "io_submit"), "never"),
    "lseek": "seek",
    "utimensat": "touch",
    "mmap": "map",
}
