"""Files as sources and targets of data: a path, or something that is open already."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, nullcontext, suppress

from ._streams import check_readable
from .errors import from_os_error, os_errors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any, BinaryIO


def _as_path(path: Any, method: str) -> str | None:
    """Return a path as str, None for an open binary file."""
    if isinstance(path, bytes) or not hasattr(path, method):
        # Raises TypeError for what is no path.
        return os.fsdecode(path)
    import io

    if isinstance(path, io.TextIOBase):
        raise TypeError(f"a file must be open in binary mode: {path!r}")
    return None


def reading(path: str | os.PathLike[str] | BinaryIO) -> AbstractContextManager[BinaryIO]:
    """Return a context manager that gives a binary stream for a path or an open file."""
    name = _as_path(path, "read")
    if name is None:
        check_readable(path)
        return nullcontext(path)  # type: ignore[arg-type]
    return _opened(name)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    # Reading can be refused too, long after the file was opened.
    with os_errors(), open(path, "rb") as file:
        yield file


def writing(
    path: str | os.PathLike[str] | BinaryIO, mode: int = 0o666
) -> AbstractContextManager[Callable[[bytes], object]]:
    """Return a context manager that gives a function that writes to a path or an open file.

    A path is replaced at the end of the block, or kept if the block raises. `mode` is for a new file,
    as in ``os.open()``.
    """
    name = _as_path(path, "write")
    if name is None:
        import io

        # A raw file may take less than it was given.
        raw = isinstance(path, io.RawIOBase)
        return nullcontext(_writer(path) if raw else path.write)  # type: ignore[union-attr]
    return _replacing(name, mode)


@contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """As os_errors(), but what they name is the path that was given, not a temporary file."""
    try:
        yield
    except OSError as error:
        raise from_os_error(OSError(error.errno, error.strerror, path)) from error


@contextmanager
def _replacing(path: str, new_mode: int) -> Iterator[Callable[[bytes], object]]:
    import stat

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, new_mode)

    given = path
    with _errors_of(given):
        # A link keeps pointing where it does: what it names is replaced.
        path = os.path.realpath(given)
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = None
    if mode is not None and not stat.S_ISREG(mode):
        # A device or a pipe cannot be replaced; a directory cannot be written (IsADirectoryError).
        with os_errors(), open(path, "wb", buffering=0) as device:
            yield _writer(device)
        return
    # Not made of the name, which may be as long as a name can be.
    name = f".{os.getpid()}-{os.urandom(6).hex()}.tmp"
    temporary = os.path.join(os.path.dirname(path), name)
    with _errors_of(given):
        file = open(temporary, "xb", 0, opener=opener)  # noqa: SIM115 - closed before it is renamed
    try:
        with file:
            yield _writer(file)
            with _errors_of(given):
                if mode is not None:
                    os.chmod(temporary, stat.S_IMODE(mode))
                os.fsync(file.fileno())
        with _errors_of(given):
            os.replace(temporary, path)
    except BaseException:
        # Whatever went wrong is worth more than that the temporary file cannot be removed.
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _writer(file: Any) -> Callable[[bytes], object]:
    def write(data: bytes) -> None:
        view = memoryview(data)
        with os_errors():
            while view:
                done = file.write(view)
                if done is None:
                    raise BlockingIOError(errno.EAGAIN, "the file takes no more without blocking")
                view = view[done:]

    return write
