"""A read-only store over a zip archive: two methods of its own, everything else from the contract.

Usage: python examples/custom_store.py ARCHIVE.zip [GLOB]
"""

from __future__ import annotations

import calendar
import sys
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from encore.storage.abstract_store import AbstractReadOnlyStore
from encore.storage.errors import StoreError
from encore.storage.value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Member(Value):
    """One file of an archive."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
        self._archive = archive
        self._member = member
        self.key = member.filename
        self.size = member.file_size
        self.created = self.modified = float(calendar.timegm(member.date_time))

    @property
    def data(self) -> BinaryIO:
        return cast(BinaryIO, self._archive.open(self._member))

    @property
    def metadata(self) -> dict[str, Any]:
        return {"size": self._member.file_size, "compressed": self._member.compress_size}


class ZipStore(AbstractReadOnlyStore):
    """The files of a zip archive."""

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path
        self._archive: zipfile.ZipFile | None = None

    def connect(self, credentials: Any = None) -> None:
        if self._archive is None:
            try:
                self._archive = zipfile.ZipFile(self.path)
            except (OSError, zipfile.BadZipFile) as error:
                raise StoreError(f"cannot open {self.path}: {error}") from error

    def disconnect(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def is_connected(self) -> bool:
        return self._archive is not None

    def get(self, key: str) -> Value:
        archive = self._opened()
        member = archive.NameToInfo.get(key)
        if member is None or member.is_dir():
            raise KeyError(key)
        return Member(archive, member)

    def query(
        self,
        /,
        select: Iterable[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        criteria = {**(where or {}), **kwargs}
        names = None if select is None else set(select)
        archive = self._opened()
        members = (Member(archive, info) for info in archive.infolist() if not info.is_dir())
        return (
            (member.key, {n: v for n, v in member.metadata.items() if names is None or n in names})
            for member in members
            if criteria.items() <= member.metadata.items()
        )

    def _opened(self) -> zipfile.ZipFile:
        if self._archive is None:
            raise StoreError(f"{self.path} is not connected")
        return self._archive


def main(path: str, pattern: str = "*") -> None:
    with ZipStore(path) as store:
        for key in sorted(store.glob(pattern)):
            first_line = store.get_data(key).readline().decode(errors="replace").rstrip()
            print(key, store.get_metadata(key), first_line)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
