"""What is on a disk, and the changes since it was last synced that may be there or not."""

from __future__ import annotations

import os
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._strace import Call

# What disks write as one.
SECTOR = 512

# What can become of the changes of a file.
WAYS = ("cut off", "zeros", "torn", "with holes", "any part")


class Change:
    """A change of a file: data, a new size, or (neither of them) a time of modification."""

    __slots__ = ("data", "offset", "serial", "size", "time")

    def __init__(
        self, call: Call, *, data: bytes | None = None, offset: int = 0, size: int | None = None
    ) -> None:
        self.serial = call.serial
        self.time = call.time
        self.data = data
        self.offset = offset
        self.size = size

    def apply(self, content: bytearray) -> None:
        size = self.size
        if self.data is not None:
            size = max(len(content), self.offset + len(self.data))
        if size is not None:
            content.extend(bytes(max(0, size - len(content))))
            del content[size:]
        if self.data is not None:
            content[self.offset : self.offset + len(self.data)] = self.data

    def _part(self, start: int, end: int) -> Change:
        part: Change = object.__new__(Change)
        part.serial, part.time, part.size = self.serial, self.time, None
        assert self.data is not None
        part.data, part.offset = self.data[start:end], self.offset + start
        return part

    def sectors(self) -> list[Change]:
        """Return the parts of a write that arrive or do not."""
        if not self.data:
            return [self]
        parts, start = [], 0
        while start < len(self.data):
            end = start + SECTOR - (self.offset + start) % SECTOR
            parts.append(self._part(start, end))
            start = end
        return parts

    def length(self) -> Change:
        """Return what is left of a write if the file becomes longer and the data do not arrive."""
        return self if self.data is None else self._part(len(self.data), len(self.data))


class File:
    """A file: what is on the disk, and what may be."""

    def __init__(self, label: bytes, data: bytes = b"", mtime: int = 0) -> None:
        self.label = label
        self.data = data
        self.mtime = mtime
        self.pending: list[Change] = []

    def content(self, changes: Sequence[Change]) -> tuple[bytes, int]:
        """Return the data and the time of modification after some changes."""
        if not changes:
            return self.data, self.mtime
        data = bytearray(self.data)
        for change in changes:
            change.apply(data)
        return bytes(data), changes[-1].time

    def save(self, before: int, times: bool = True) -> None:
        """Put on the disk what was done before a call."""

        def is_saved(change: Change) -> bool:
            # fdatasync() writes no time that somebody has set.
            only_time = change.data is None and change.size is None
            return change.serial < before and (times or not only_time)

        self.data, self.mtime = self.content(
            [change for change in self.pending if is_saved(change)]
        )
        self.pending = [change for change in self.pending if not is_saved(change)]


class Link:
    """A symbolic link."""

    def __init__(self, target: bytes) -> None:
        self.target = target


class Directory:
    """A directory: the names there are now, those on the disk, and the changes between them."""

    def __init__(self, label: bytes) -> None:
        self.label = label
        self.names: dict[bytes, Node] = {}
        self.saved: dict[bytes, Node] = {}
        self.pending: list[Renaming] = []

    def change(
        self, call: Call, names: dict[bytes, Node | None], added: Renaming | None = None
    ) -> Renaming:
        renaming = Renaming(call.serial, self, names, added)
        renaming.apply(self.names)
        self.pending.append(renaming)
        return renaming

    def save(self, before: int) -> None:
        """Put on the disk what was done before a call."""
        while self.pending and self.pending[0].serial < before:
            renaming = self.pending.pop(0)
            renaming.apply(self.saved)
            if renaming.added is not None:
                renaming.added.directory.save(renaming.serial + 1)


class Renaming:
    """Names that a directory gets (with their nodes) and loses (None) at once.

    `added` is the change of another directory by which a file that is lost here gets its new name.
    """

    def __init__(
        self,
        serial: int,
        directory: Directory,
        names: dict[bytes, Node | None],
        added: Renaming | None,
    ) -> None:
        self.serial = serial
        self.directory = directory
        self.names = names
        self.added = added

    def apply(self, names: dict[bytes, Node]) -> None:
        for name, node in self.names.items():
            if node is None:
                names.pop(name, None)
            else:
                names[name] = node


Node: TypeAlias = "File | Directory | Link"


class Loss:
    """How much arrives of what was not synced: by default all or nothing of each.

    Attributes
    ----------
    names : dict
        How many changes of a directory arrive.
    data : dict
        How the changes of a file arrive: one of WAYS, and at which of them it is cut.
    """

    def __init__(self, all_names: bool, all_data: bool, seed: int = 0) -> None:
        self._all_names = all_names
        self._all_data = all_data
        self._seed = seed
        self.names: dict[Directory, int] = {}
        self.data: dict[File, tuple[str, int]] = {}

    def of_names(self, directory: Directory) -> int:
        return self.names.get(directory, len(directory.pending) if self._all_names else 0)

    def of_data(self, file: File) -> list[Change]:
        if file not in self.data:
            return file.pending if self._all_data else []
        way, place = self.data[file]
        before, changes = file.pending[:place], file.pending[place:]
        if way == "cut off":
            return before
        if way == "zeros":
            return [*before, *(change.length() for change in changes)]
        random = Random(self._seed)
        sectors = changes[0].sectors() if changes else []
        if way == "torn":
            return [*before, *sectors[: random.randrange(len(sectors) or 1)]]
        if way == "with holes":
            return [*before, *(sector for sector in sectors if random.random() < 1 / 2)]
        # In another order than they were made.
        parts = [part for change in changes for part in change.sectors()]
        return [*before, *(part for part in parts if random.random() < 1 / 2)]

    def describe(self, file: File) -> str:
        if file not in self.data:
            return f"{len(self.of_data(file))} of {len(file.pending)}"
        way, place = self.data[file]
        return f"{place} of {len(file.pending)}, then {way}"


class Image:
    """The files there are after a power cut: path -> data and time, target, or None (directory)."""

    def __init__(self) -> None:
        self._files: dict[bytes, tuple[Node, bytes, int]] = {}

    def add(self, path: bytes, node: Node, data: bytes = b"", mtime: int = 0) -> None:
        self._files[path] = node, data, mtime

    def fingerprint(self) -> bytes:
        digest = blake2b(digest_size=16)
        for path, (node, data, mtime) in sorted(self._files.items(), key=lambda item: item[0]):
            digest.update(b"%a %a %d %d\n" % (path, type(node).__name__, mtime, len(data)))
            digest.update(data)
        return digest.digest()

    def build(self, folder: str) -> None:
        made: dict[Node, bytes] = {}
        for name, (node, data, mtime) in self._files.items():
            path = os.path.join(os.fsencode(folder), name)
            if node in made:
                os.link(made[node], path)
            elif isinstance(node, Directory):
                os.mkdir(path)
            elif isinstance(node, Link):
                os.symlink(node.target, path)
            else:
                with open(path, "xb") as file:
                    file.write(data)
                os.utime(path, ns=(mtime, mtime))
                made[node] = path
