"""The commands that are short."""

from __future__ import annotations

import os
import sys

from . import FAILED, WrongUse
from .stores import bytes_of, opened, writable
from .text import as_json, checked_key, checked_pattern, one_line, pairs_of, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, BinaryIO

    from encore.storage.abstract_store import AbstractReadOnlyStore

__all__ = [
    "cat",
    "check",
    "compact",
    "demo",
    "info",
    "ls",
    "put",
    "query",
    "rm",
    "upgrade",
    "user",
]


def ls(arguments: argparse.Namespace) -> int:
    pattern = checked_pattern(arguments.glob)
    with opened(arguments.store, arguments.option) as store:
        for key in store.keys() if pattern is None else sorted(store.glob(pattern)):
            print(shown(key))
    return 0


def query(arguments: argparse.Namespace) -> int:
    criteria = pairs_of(arguments.criteria)
    with opened(arguments.store, arguments.option) as store:
        found = store.query(select=arguments.select, where=criteria)
        for key, metadata in sorted(found, key=lambda item: item[0]):
            print(f"{shown(key)}\t{as_json(metadata)}")
    return 0


def cat(arguments: argparse.Namespace) -> int:
    key = checked_key(arguments.key)
    with opened(arguments.store, arguments.option) as store:
        value = store.get(key)
        output = bytes_of(sys.stdout, "standard output")
        for buffer in value.iterdata():
            output.write(buffer)
        output.flush()
    return 0


def put(arguments: argparse.Namespace) -> int:
    key = checked_key(arguments.key)
    metadata = pairs_of(arguments.metadata)
    if "" in metadata:
        raise WrongUse("a name in metadata is missing: '='")
    # Before the store, which is not to be made if there is nothing to put into it.
    if arguments.file == "-":
        _put_stream(arguments, key, bytes_of(sys.stdin, "standard input"), metadata)
    else:
        # Whole in messages, as the paths of stores are.
        with open(os.path.join(os.getcwd(), arguments.file), "rb") as file:
            _put_stream(arguments, key, file, metadata)
    return 0


def _put_stream(
    arguments: argparse.Namespace, key: str, stream: BinaryIO, metadata: dict[str, Any]
) -> None:
    with writable(arguments.store, arguments.option, create=True) as store:
        store.set(key, (stream, metadata))


def rm(arguments: argparse.Namespace) -> int:
    key = checked_key(arguments.key)
    with writable(arguments.store, arguments.option) as store:
        store.delete(key)
    return 0


def info(arguments: argparse.Namespace) -> int:
    with opened(arguments.store, arguments.option) as store:
        for name, value in store.info().items():
            print(f"{shown(str(name))}: {value if isinstance(value, str) else as_json(value)}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    with opened(arguments.store, arguments.option) as store:
        look = _maintenance(store, "repair", arguments.store) if arguments.repair else store.check
        findings = look()
    for finding in findings:
        print(one_line(str(finding)))
    return FAILED if any(finding.outcome != "mended" for finding in findings) else 0


def compact(arguments: argparse.Namespace) -> int:
    with opened(arguments.store, arguments.option) as store:
        _maintenance(store, "compact", arguments.store)()
    return 0


def upgrade(arguments: argparse.Namespace) -> int:
    with opened(arguments.store, arguments.option) as store:
        print(f"{_maintenance(store, 'upgrade', arguments.store)()} rewritten")
    return 0


def _maintenance(store: AbstractReadOnlyStore, method: str, name: str) -> Any:
    """Return what only some stores can do."""
    found = getattr(store, method, None)
    if found is None:
        from encore.storage._chain import shown_name, split

        link = split(name)
        hint = f"; use the store within, {shown_name(link[3])}" if link else ""
        raise WrongUse(f"a {type(store).__name__} has no {method}{hint}")
    return found


def user(arguments: argparse.Namespace) -> int:
    from encore.storage._server_users import set_password

    try:
        is_new = set_password(arguments.file, arguments.name, _password())
    except ValueError as error:
        raise WrongUse(error) from error
    print(f"{shown(arguments.name)}: {'added' if is_new else 'has a new password'}")
    return 0


def _password() -> str:
    """Ask for a password; without a terminal, read it as a line."""
    if sys.stdin is None or not sys.stdin.isatty():
        try:
            line = bytes_of(sys.stdin, "standard input").readline().decode()
        except UnicodeDecodeError as error:
            raise WrongUse("the password is no UTF-8") from error
        return line.rstrip("\r\n")
    from getpass import getpass

    try:
        password = getpass("Password: ")
        again = getpass("The same again: ")
    except EOFError as error:
        raise WrongUse("no password was given") from error
    if again != password:
        raise WrongUse("these were two passwords")
    return password


def demo(arguments: argparse.Namespace) -> int:
    from encore._demo import run

    run()
    return 0
