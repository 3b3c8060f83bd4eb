"""What can go wrong in a store, apart from KeyError, TypeError and ValueError."""

from __future__ import annotations

__all__ = [
    "AuthenticationError",
    "AuthorizationError",
    "HiddenKeyError",
    "IntegrityError",
    "PreconditionError",
    "StoreError",
    "StoreFullError",
    "StoreOSError",
    "TemporaryError",
]


class StoreError(RuntimeError):
    """A store could not do what was asked.

    Attributes
    ----------
    key : str or None
        The key it happened to, where there is one.
    """

    key: str | None = None

    def __init__(self, *args: object, key: str | None = None) -> None:
        super().__init__(*args)
        if key is not None:
            self.key = key


class AuthorizationError(StoreError):
    """The user may not do this."""


class AuthenticationError(AuthorizationError):
    """Nobody is logged in, or whoever is may not do this; then `key` says to what."""


class HiddenKeyError(AuthenticationError, KeyError):
    """The user may not know whether there is such a key: to those who ask, it is not there."""

    def __init__(self, key: str) -> None:
        super().__init__(key, key=key)

    def __str__(self) -> str:
        return f"not permitted: {self.key!r}"


class PreconditionError(StoreError):
    """``if_match`` or ``if_none_match`` did not hold; nothing was changed."""


class IntegrityError(StoreError):
    """The data are not those that were stored."""


class TemporaryError(StoreError):
    """It may work later.

    Attributes
    ----------
    retry_after : float or None
        After how many seconds it may, if that was said.
    happened : bool or None
        Whether what was asked for was done all the same; None if that is not known.
    """

    retry_after: float | None = None
    happened: bool | None = None

    def __init__(
        self,
        *args: object,
        key: str | None = None,
        retry_after: float | None = None,
        happened: bool | None = None,
    ) -> None:
        super().__init__(*args, key=key)
        if retry_after is not None:
            self.retry_after = retry_after
        if happened is not None:
            self.happened = happened


class StoreFullError(StoreError):
    """There is no room for what was to be written; nothing was changed."""


class StoreOSError(StoreError, OSError):
    """The operating system refused; `errno`, `strerror` and `filename` are those of the OSError."""

    def __init__(self, *args: object, key: str | None = None) -> None:
        # RuntimeError stands first in the order of the bases and would leave errno unset.
        OSError.__init__(self, *args)
        if key is not None:
            self.key = key

    def __str__(self) -> str:
        return OSError.__str__(self)


def from_os_error(error: OSError, key: str | None = None) -> StoreOSError:
    """Make the StoreOSError that stands for `error`."""
    args = (error.errno, error.strerror, error.filename) if error.errno is not None else error.args
    return StoreOSError(*args, key=key)


def shown(value: object) -> str:
    """Describe a value that is refused: its type and the beginning of its repr."""
    try:
        text = repr(value[:80] if isinstance(value, bytes | bytearray) else value)
    except Exception:
        # An int of thousands of digits has none, and a stranger's may do anything.
        text = "..."
    return f"{type(value).__name__}: {text:.80}"


class os_errors:
    """A context manager that turns an OSError in its block into a StoreOSError."""

    def __init__(self, key: str | None = None) -> None:
        self._key = key

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise from_os_error(error, self._key) from error
