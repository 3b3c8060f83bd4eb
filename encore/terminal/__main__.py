"""A demonstration of what the display shows: ``python -m encore.terminal``."""

from __future__ import annotations

import sys
from time import monotonic, sleep

from ..events.api import EventManager, ProgressManager
from .api import ProgressDisplay, track

__all__ = ["Demonstration", "main"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from logging import Logger
    from typing import Any, Literal, TextIO

_FRAME = 0.05


class Demonstration:
    """Some seconds of operations of every kind.

    Parameters
    ----------
    stream : text file, optional
        Where to show them.
    mode : str
        As for the display.
    clock, sleep : callable
        The time, and waiting for it to pass.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        mode: Literal["auto", "bar", "lines", "off"] = "auto",
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], object] = sleep,
    ) -> None:
        self.manager = EventManager()
        self.display = ProgressDisplay(self.manager, stream=stream, mode=mode, clock=clock)
        self._clock = clock
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self.display!r}>"

    def run(self) -> None:
        """Show everything, one after the other."""
        import logging

        # Of its own, so that nothing else in the process is told of it.
        logger = logging.Logger("demonstration")
        logger.addHandler(self.display.log_handler())
        with self.display as display:
            display.write("A download in bytes, and a scan:")
            self._download_while_scanning(logger)
            display.write("\nOperations in another, and a failure:")
            self._publish()
            display.write("\nMore of them than there is room for:")
            self._crowd()
            display.write("\nA loop:")
            for _ in track(range(40), "Counting", event_manager=self.manager):
                self._sleep(_FRAME / 4)

    def _operation(self, message: str, steps: int = -1, **attributes: Any) -> ProgressManager:
        return ProgressManager(self.manager, None, None, message, steps, **attributes)

    def _download_while_scanning(self, logger: Logger) -> None:
        size = 24 * 2**20
        scanning = self._operation("Scanning directories", unit="files")
        with self._operation("Downloading", size, unit="B", parent=None) as download:
            scanning.start(parent=None)
            for frame in range(1, 31):
                self._sleep(_FRAME)
                download(step=size * frame // 30)
                scanning(step=frame * 217)
                if frame == 10:
                    self.display.write("found a virtual disk (display.write)")
                elif frame == 20:
                    logger.warning("3 files cannot be read (logging)")
        scanning.end("3 files skipped", "warning")

    def _publish(self) -> None:
        with self._operation("Publishing the site", 3) as whole:
            with self._operation("Rendering pages", 40) as rendering:
                for page in range(1, 41):
                    self._sleep(_FRAME / 4)
                    rendering(f"page-{page:02}.rst", page)
            whole(step=1)
            with self._operation("Checking links") as checking:
                for link in range(1, 21):
                    self._sleep(_FRAME / 2)
                    checking(step=link * 4)
            whole(step=2)
            uploading = self._operation("Uploading", 8 * 2**20, unit="B")
            for frame in range(1, 11):
                self._sleep(_FRAME)
                uploading(step=frame * 2**19)
            uploading.end("connection reset by peer", "error")
            whole.end("not published", "error")

    def _crowd(self) -> None:
        with self._operation("Converting pictures", 60) as whole:
            pictures = [
                self._operation(
                    f"picture-{number:02}.png", 20 + number % 7, parent=whole.operation_id
                )
                for number in range(1, 61)
            ]
            running: dict[ProgressManager, int] = {}
            while pictures or running:
                while pictures and len(running) < 32:
                    picture = pictures.pop(0)
                    picture.start()
                    running[picture] = 0
                self._sleep(_FRAME)
                for number, (picture, step) in enumerate(list(running.items())):
                    running[picture] = step = step + 1 + (number + len(pictures)) % 2
                    picture(step=min(step, picture.steps))
                    broken = "-21" in picture.message and step > picture.steps // 2
                    if broken or step >= picture.steps:
                        del running[picture]
                        picture.end(*("no such file", "error") if broken else ())
                        whole(step=60 - len(pictures) - len(running))
            whole.end("1 of 60 failed", "warning")


class _FastClock:
    """A time that passes by sleeping only, and then at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.now!r})"

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


def main(argv: Sequence[str] | None = None, stream: TextIO | None = None) -> int:
    """Run the demonstration; return the exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, by default those of the process.
    stream : text file, optional
        Where to show it, by default `sys.stderr`.
    """
    from argparse import ArgumentParser

    parser = ArgumentParser(
        "python -m encore.terminal", description="Show what progress looks like."
    )
    parser.add_argument(
        "--mode",
        choices=["auto", "bar", "lines", "off"],
        default="auto",
        help="bars, plain lines, or nothing (default: bars on a terminal, lines elsewhere)",
    )
    parser.add_argument("--fast", action="store_true", help="do not wait")
    arguments = parser.parse_args(argv)
    timing: tuple[Callable[[], float], Callable[[float], object]] = (monotonic, sleep)
    if arguments.fast:
        fast = _FastClock()
        timing = (fast, fast.sleep)
    try:
        Demonstration(stream, arguments.mode, *timing).run()
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
