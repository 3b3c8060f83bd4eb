"""strace: which calls a program has made that change files, in the order in which they ended.

Strings are recorded in hexadecimal digits (-xx), so that no quote or bracket in the record is part
of one, and each file descriptor with the path it stands for (-y).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# A call that is not there on every machine is marked with "?".
CALLS = (
    "?open,openat,?openat2,?creat,write,pwrite64,writev,pwritev,?pwritev2,lseek,truncate,ftruncate,"
    "fallocate,?rename,renameat,renameat2,?unlink,unlinkat,?link,linkat,?symlink,symlinkat,?mkdir,"
    "mkdirat,?rmdir,?mknod,mknodat,fsync,fdatasync,sync,syncfs,?utime,?utimes,?futimesat,utimensat,"
    "mmap,copy_file_range,sendfile,splice,?io_uring_setup,?io_submit,chdir,fchdir"
)

_OPTIONS = ("-f", "--seccomp-bpf", "-y", "-xx", "-s", str(1 << 28), "-ttt", "-e", f"trace={CALLS}")

#: What follows the path of an open file that has no name any more.
DELETED = b" (deleted)"

_LINE = re.compile(r"(?P<process>\d+) +(?P<time>\d+\.\d+) (?P<rest>.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>,? ?")
_FILE = re.compile(r"([\w-]+)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?![\w.])")


class Call:
    """A call that succeeded.

    Attributes
    ----------
    name : str
    result : int
    opened : bytes or None
        The path of the descriptor that is the result.
    strings : list of bytes
        The arguments that are strings, in order.
    files : list of (str, bytes)
        Those that are descriptors: number or name, and path.
    text : str
        All arguments, strings and paths shortened.
    numbers : list of int
        Those that are plain numbers.
    time : int, in nanoseconds
    serial : int
        How many calls had ended before this one.
    started : int
        How many calls had ended when this one began.
    """

    __slots__ = (
        *("files", "name", "numbers", "opened", "result"),
        *("serial", "started", "strings", "text", "time"),
    )

    def __init__(
        self, name: str, arguments: str, result: str, *, time: int = 0, serial: int, started: int
    ) -> None:
        self.name = name
        self.time = time
        self.serial = serial
        self.started = started
        # In hexadecimal digits, no string has a quote in it.
        rest, strings = arguments.split('"')[::2], arguments.split('"')[1::2]
        if any(text.startswith("...") for text in rest[1:]):
            raise ValueError(f"strace has cut off an argument of {name}")
        self.strings = [_decode(text) for text in strings]
        self.files = _files("_".join(rest))
        self.numbers = [int(text) for text in _NUMBER.findall(_FILE.sub("_", "_".join(rest)))]
        number, _, _ = result.partition("<")
        self.result = int(number.split()[0], 0)
        opened = _files(result)
        self.opened = opened[0][1] if opened else None
        first, *others = _FILE.sub(_named, '"'.join(rest)).split('"')
        shown = [*map(_shown, self.strings)]
        self.text = first + "".join(map("".join, zip(shown, others, strict=True)))

    def __repr__(self) -> str:
        return f"{self.name}({self.text})"


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _files(text: str) -> list[tuple[str, bytes]]:
    # Older versions of strace have the word in the brackets, as the kernel has it.
    return [
        (fd, _decode(path) + (DELETED if deleted else b""))
        for fd, path, deleted in _FILE.findall(text)
    ]


def _named(match: re.Match[str]) -> str:
    return f"{match[1]}<{os.fsdecode(_decode(match[2]))}>"


def _shown(string: bytes) -> str:
    return f"{string[:40]!r}"[1:] + ("..." if len(string) > 40 else "")


def parse(lines: Sequence[str]) -> Iterator[Call]:
    """Read what strace has written."""
    begun: dict[str, tuple[str, int]] = {}
    ended = 0
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        process, rest = match["process"], match["rest"]
        if rest.startswith(("---", "+++")):
            continue
        started = ended
        if rest.endswith(" <unfinished ...>"):
            begun[process] = rest[: -len(" <unfinished ...>")], ended
            continue
        if resumed := _RESUMED.match(rest):
            first, started = begun.pop(process)
            rest = first + rest[resumed.end() :]
        call, _, result = rest.rpartition(" = ")
        name, _, arguments = call.rstrip().partition("(")
        # "?" is the result of a call in which the process was killed.
        if not result or result.startswith(("-1 ", "?")):
            continue
        seconds, _, fraction = match["time"].partition(".")
        time = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        yield Call(
            name, arguments.removesuffix(")"), result, time=time, serial=ended, started=started
        )
        ended += 1


@lru_cache(maxsize=1)
def why_not() -> str | None:
    """Return why nothing can be recorded here, None if it can."""
    try:
        done = subprocess.run(
            ["strace", *_OPTIONS, "-o", os.devnull, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=60,
        )
    except FileNotFoundError:
        return "strace is not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"strace does not run: {error}"
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        return f"strace does not run here: {lines[0]}"
    return None


def run(
    command: Sequence[str],
    *,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> list[Call]:
    """Run a program to its end, and return the calls that it and its children have made.

    What runs at the timeout is killed, children included.
    """
    with tempfile.TemporaryDirectory(prefix="encore-strace-") as folder:
        path = os.path.join(folder, "record")
        process = subprocess.Popen(
            ["strace", *_OPTIONS, "-o", path, *command],
            stdin=None if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            # A group of its own: strace that is killed lets go of what it traces.
            start_new_session=True,
        )
        with process:
            try:
                _, error = process.communicate(stdin, timeout)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if process.returncode:
            raise RuntimeError(
                f"exit status {process.returncode} of {command[0]!r}, standard error:\n"
                + error.decode(errors="replace")
            )
        with open(path, encoding="ascii", newline="\n") as file:
            return list(parse(file.read().split("\n")))
