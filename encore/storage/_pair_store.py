"""The making of a file system store: a directory, and in it a file that marks it and says its version."""

from __future__ import annotations

import os

from .base_store import no_positional_manager
from .errors import StoreError, os_errors

MAGIC = ".FSStore"
VERSION = 1

# Names of other files in the directory begin with these.
_OWN = (".FStmp", ".FSjournal", ".FSlost", "__log__.txt")


class FileSystemStoreError(StoreError):
    """A directory is no file system store."""

    # Where it is public.
    __module__ = "encore.storage.filesystem_store"


def init_shared_store(path: str | os.PathLike[str], magic_fname: str = MAGIC) -> None:
    """Make a directory a file system store; harmless if it is one.

    Parameters
    ----------
    path : str or PathLike
        Made if it does not exist.
    magic_fname : str
        Name of the file that marks it.
    """
    root = absolute(path)
    magic = os.path.join(root, check_magic(magic_fname))
    from ._posix import sync_folder, unlink

    with os_errors():
        _make_directories(root)
        if os.path.exists(magic):
            return
        temporary = os.path.join(root, f".FS{os.urandom(6).hex()}")
        try:
            with open(temporary, "x", encoding="ascii") as file:
                file.write(f"__version__ = {VERSION}\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, magic)
        except BaseException:
            unlink(temporary)
            raise
        sync_folder(root)


def _make_directories(path: str) -> None:
    """As os.makedirs(), but what is made survives power loss."""
    from ._posix import sync_folder

    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        _make_directories(parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        # Made meanwhile; or it is no directory.
        if not os.path.isdir(path):
            raise
    sync_folder(parent)


def absolute(path: str | os.PathLike[str]) -> str:
    no_positional_manager(path)
    name = os.fsdecode(os.fspath(path))
    if not name:
        raise ValueError("the path of a file system store is not empty")
    return os.path.abspath(name)


def check_magic(magic_fname: str) -> str:
    if not isinstance(magic_fname, str):
        raise TypeError(f"magic_fname is a str, not {type(magic_fname).__name__}: {magic_fname!r}")
    if (
        not magic_fname
        or magic_fname in (".", "..")
        or os.path.basename(magic_fname) != magic_fname
    ):
        raise ValueError(f"magic_fname is the name of a file in the directory, not {magic_fname!r}")
    if magic_fname.startswith(_OWN) or magic_fname.endswith((".data", ".metadata", ".key")):
        raise ValueError(f"magic_fname is a name that the store itself uses: {magic_fname!r}")
    return magic_fname


def check_store(path: str, magic_fname: str) -> None:
    """Raise FileSystemStoreError if there is no store that we know how to read."""
    from ._posix import read_file

    if not os.path.isdir(path):
        raise FileSystemStoreError(f"there is no directory {path!r}")
    try:
        magic = read_file(os.path.join(path, magic_fname))
    except OSError as error:
        raise FileSystemStoreError(f"{path!r} cannot be read: {error.strerror}") from error
    if magic is None:
        raise FileSystemStoreError(
            f"{path!r} is no file system store: it has no {magic_fname!r} (see init_shared_store)"
        )
    name, _, version = magic[:1000].decode(errors="replace").partition("=")
    if name.strip() == "__version__" and version.strip().isdecimal() and int(version) > VERSION:
        raise FileSystemStoreError(
            f"{path!r} was made by a newer encore: version {version.strip()}"
        )
