"""Records of the logging package, printed above the bars of a display."""

from __future__ import annotations

from logging import Handler

__all__ = ["DisplayHandler"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from logging import LogRecord

    from .progress_display import ProgressDisplay


class DisplayHandler(Handler):
    """Hands records to the `write` of a display.

    Parameters
    ----------
    display : ProgressDisplay
        The display. The handler keeps it alive.
    level : int or str
        The least level of the records.
    """

    def __init__(self, display: ProgressDisplay, level: int | str = 0) -> None:
        super().__init__(level)
        self.display = display

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.display!r}>"

    def emit(self, record: LogRecord) -> None:
        try:
            self.display.write(self.format(record))
        except Exception:
            self.handleError(record)
