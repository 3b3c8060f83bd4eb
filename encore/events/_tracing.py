"""A tracer that logs."""

from __future__ import annotations

from .event_manager import _logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Logger
    from typing import Any

__all__ = ["LoggingTracer"]


class LoggingTracer:
    """A tracer for :meth:`EventManager.set_trace` that logs what is done and vetoes nothing.

    Parameters
    ----------
    logger : logging.Logger, optional
        By default the logger of :mod:`encore.events.event_manager`.
    level : int
        The level of the records, INFO by default.
    """

    def __init__(self, logger: Logger | None = None, level: int = 20) -> None:
        self.logger = _logger() if logger is None else logger
        self.level = level

    def __call__(self, name: str, method: Callable[..., object], args: tuple[Any, ...]) -> bool:
        if name == "emit":
            line, shown = "emit: %r", args
        elif name == "listen":
            line, shown = "listen: %r hears %r", (method, *args)
        else:
            cls, func, *options = args
            line = "connect: %r to %s" if name == "connect" else "disconnect: %r from %s"
            shown = (func, getattr(cls, "__name__", cls))
            for option, value in zip(("filter", "priority"), options, strict=False):
                if value:
                    line += f", {option} %r"
                    shown += (value,)
        self.logger.log(self.level, line, *shown)
        return False

    def __repr__(self) -> str:
        return f"LoggingTracer({self.logger!r}, {self.level!r})"
