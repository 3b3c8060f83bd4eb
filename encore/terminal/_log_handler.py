"""Records of the logging package, printed above the bars of a display."""

from __future__ import annotations

from logging import Handler

__all__ = ["DisplayHandler"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import LogRecord


class DisplayHandler(Handler):
    """Hands records to a display.

    Parameters
    ----------
    write : callable
        What prints a text.
    display : object
        Whose that is.
    level : int or str
        The least level of the records.
    """

    def __init__(
        self, write: Callable[[str], object], display: object, level: int | str = 0
    ) -> None:
        super().__init__(level)
        self._write = write
        self._display = display

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._display}>"

    def emit(self, record: LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:
            self.handleError(record)
