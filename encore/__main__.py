"""The command line: ``python -m encore``.

Results go to standard output, everything else to standard error. Wrong use is one line and exit
status 2, what fails is one line and 1, Control-C is 130.
"""

from __future__ import annotations

import errno
import os
import sys

try:
    import argparse
    from contextlib import contextmanager, nullcontext, suppress
    from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn
except KeyboardInterrupt:
    # They take half of the time until main() can catch it.
    if __name__ != "__main__":
        raise
    print("python -m encore: interrupted", file=sys.stderr)
    sys.exit(130)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from encore.storage.abstract_store import AbstractReadOnlyStore, AbstractStore

__all__ = ["main"]

PROGRAM = "python -m encore"

FAILED = 1
WRONG_USE = 2
# What a shell reports of a program that SIGINT or SIGPIPE has ended.
INTERRUPTED = 130
NOBODY_READS = 141

DESCRIPTION = "Look into stores, change them, and copy between them."

STORES = """\
A STORE is one of
  sqlite:PATH       a database file; sqlite::memory: is an empty one in memory
  fs:PATH           a file system store: a directory of data and metadata
  lockfs:PATH       the same for many computers, with a log of changes
  dir:PATH          any directory, read-only
  memory:           an empty store in memory
  module:callable   what your callable returns, say mystores:open_archive
or one around another:
  readonly::STORE             nothing can be changed
  prefix=TEXT::STORE          the keys that begin with TEXT, without it
  hash[=DIGITS]::STORE        keys have digits of their MD5 before them
  checked[=ALGORITHM]::STORE  a digest beside each value, verified when read
  retry[=ATTEMPTS]::STORE     what fails for a moment is tried again
  cache[=SECONDS]:NEAR::STORE what was read is kept in another store
  metadata-cache[=SECONDS]::STORE  metadata and listings are kept in memory
  joined:FIRST::STORE         two as one; what is written goes to FIRST
  mount=POINT:NEAR::STORE     NEAR under a prefix, before what STORE has there
put and copy make the database or directory they write to if there is none.
Options are arguments of its constructor, as in --option durability=process;
their values are JSON (null, true, 5), or else text. In a chain they are for
the last store.
"""

EXAMPLES = """\
examples:
  python -m encore copy dir:photos sqlite:photos.db --match '*.jpg'
  python -m encore ls sqlite:photos.db '2024/*'
  python -m encore query sqlite:photos.db type=image/jpeg --select size
  python -m encore query fs:photos --option index=true type=image/jpeg
  python -m encore cat sqlite:photos.db 2024/lake.jpg > lake.jpg
  python -m encore put sqlite:photos.db notes notes.txt author=me stars=5
  date | python -m encore put fs:journal today -
  python -m encore rm fs:journal today
  python -m encore info dir:photos
  python -m encore copy readonly::fs:photos checked::sqlite:safe.db
  python -m encore check sqlite:photos.db
  python -m encore demo

Write -- before arguments that begin with a dash. The exit status is 0 if all
went well, 1 if something failed, 2 for wrong use.
"""

# How Python, or people, write what is written in another way in JSON.
_NO_JSON = {"none": "null", "true": "true", "false": "false"}

NO_FS = "dir:PATH reads any directory; copy and put make stores of new and of empty ones"


class WrongUse(Exception):
    """The command line asks for what makes no sense."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} (--help says more)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        What follows the program's name; by default that of the process.

    Returns
    -------
    int
        The exit status.
    """
    if hasattr(sys.stdout, "reconfigure"):
        # What the encoding of standard output lacks is shown as an escape.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = _parsed(argv)
        status: int = arguments.run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except SystemExit as end:
        # --help and --version.
        return int(end.code or 0)
    except WrongUse as error:
        _complain(error)
        return WRONG_USE
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return NOBODY_READS
    except Exception as error:
        _drop_output()
        if _was_interrupted(error):
            _complain("interrupted")
            return INTERRUPTED
        _complain(_reason(error))
        return FAILED


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    try:
        return parser.parse_args(argv)
    except WrongUse as error:
        given = sys.argv[1:] if argv is None else argv
        # What begins with a dash has been taken for an option, and then an argument is missing.
        if "--" not in given and any(len(each) > 1 and each.startswith("-") for each in given):
            raise WrongUse(f"{error}; -- goes before arguments that begin with a dash") from error
        raise


def _complain(message: object) -> None:
    # Without a standard error print() would take standard output.
    if sys.stderr is not None:
        with suppress(OSError):
            print(f"{PROGRAM}: {_one_line(str(message))}", file=sys.stderr, flush=True)


def _was_interrupted(error: BaseException) -> bool:
    # Control-C may strike between any two steps, so that closing a store afterwards fails as well.
    context = error.__context__
    return context is not None and (
        isinstance(context, KeyboardInterrupt) or _was_interrupted(context)
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError) and error.args:
        return f"there is no key {error.args[0]!r}"
    from encore.storage.errors import StoreError

    if isinstance(error, (StoreError, OSError)) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _drop_output() -> None:
    """Forget what cannot be written, so that the interpreter does not try again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


# What is read and written


def _shown(text: str) -> str:
    """Return text with escapes for what could move the cursor or end the line."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode()
        for each in text
    )


def _one_line(text: str) -> str:
    # A backslash stays: it is in most reprs, and no line need be read back.
    return "".join(each if each.isprintable() else _shown(each) for each in text)


def _json(value: object) -> str:
    """Return JSON in readable characters, in ASCII where some are not."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        readable = False
    else:
        readable = text.isprintable()
    return text if readable else json.dumps(value, default=str).replace("\x7f", "\\u007f")


def _key(text: str) -> str:
    from encore.storage._keys import check_key

    try:
        return check_key(text)
    except ValueError as error:
        raise WrongUse(error) from error


def _pattern(text: str | None) -> str | None:
    if text == "":
        raise WrongUse("an empty pattern matches nothing")
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise WrongUse(f"a pattern must encode to UTF-8: {text!a}") from error
    return text


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    """Return metadata or criteria from ``name=value``."""
    from encore.storage._metadata import normalise

    pairs: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise WrongUse(f"{text!a} is not name=value")
        if name in pairs:
            raise WrongUse(f"{name!a} is given twice")
        pairs[name] = _value(value)
    try:
        return normalise(pairs)
    except ValueError as error:
        raise WrongUse(error) from error


def _value(text: str) -> Any:
    import json

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        return text


@contextmanager
def _opened(
    name: str, options: Sequence[str] | None, create: bool = False
) -> Iterator[AbstractReadOnlyStore]:
    from encore.storage.errors import StoreError
    from encore.storage.opener import open_store

    try:
        store = open_store(name, create=create, options=_pairs(options or ()))
    except StoreError as error:
        if name.startswith(("fs:", "lockfs:")):
            from encore.storage.filesystem_store import FileSystemStoreError

            if isinstance(error, FileSystemStoreError):
                raise StoreError(f"{error}; {NO_FS}") from error
        is_missing = not create and getattr(error, "errno", None) == errno.ENOENT
        if is_missing and name.startswith(("fs:", "lockfs:", "sqlite:")):
            raise StoreError(f"{error}; put and copy make what is missing") from error
        raise
    except (TypeError, ValueError) as error:
        hint = _json_hint(options or ())
        raise WrongUse(f"{error}{hint}") from error
    with store:
        yield store


def _json_hint(options: Sequence[str]) -> str:
    for option in options:
        name, _, value = option.partition("=")
        if value.lower() in _NO_JSON and value not in _NO_JSON.values():
            return (
                f"; a value is JSON, or else text: did you mean {name}={_NO_JSON[value.lower()]}?"
            )
    return ""


@contextmanager
def _writable(
    name: str, options: Sequence[str] | None, create: bool = False
) -> Iterator[AbstractStore]:
    from encore.storage.abstract_store import AbstractStore
    from encore.storage.errors import StoreError

    with _opened(name, options, create) as store:
        if not isinstance(store, AbstractStore):
            raise StoreError(f"{name!r} can only be read")
        yield store


def _bytes_of(stream: Any, name: str) -> BinaryIO:
    if stream is None:
        raise OSError(f"{name} is closed")
    binary: BinaryIO = stream.buffer
    return binary


# The commands


def _copy(arguments: argparse.Namespace) -> int:
    from encore.events.event_manager import EventManager
    from encore.storage._keys import key_matcher
    from encore.storage.copying import copy_store

    if not arguments.quiet:
        from encore.terminal.progress_display import ProgressDisplay

    match = _pattern(arguments.match)
    # One of its own: the progress of the whole is shown, not that of each key.
    events = EventManager()
    on_conflict = "overwrite" if arguments.overwrite else "error"
    with (
        _opened(arguments.source, arguments.source_option) as source,
        _writable(arguments.target, arguments.target_option, create=True) as target,
        nullcontext() if arguments.quiet else ProgressDisplay(events),
    ):
        own = _own_files(source, target)
        report = copy_store(
            source,
            target,
            match=match if own is None else _all_but(own, match),
            on_conflict=on_conflict,
            event_manager=events,
        )
        left = list(_left_out(source, match))
        if own is not None and key_matcher(match or "*")(own):
            left.append((own, "it is the target", None))
    for key, error in report.failed.items():
        _complain(f"{_shown(key)}: {_reason(error)}")
    for path, reason, cause in left:
        if cause or not arguments.quiet:
            _complain(f"left out {_shown(path)}: {reason}")
    has_failed = bool(report.failed) or any(error for _, _, error in left)
    if has_failed or not arguments.quiet:
        print(f"{report}, {len(left)} left out" if left else report)
    return FAILED if has_failed else 0


def _own_files(source: Any, target: AbstractStore) -> str | None:
    """Return the key that the target's file or directory has in a directory that is the source."""
    from encore.storage.directory_store import DirectoryStore

    info = target.info()
    path = info.get("path") or info.get("location")
    if not isinstance(source, DirectoryStore) or not isinstance(path, str) or path == ":memory:":
        return None
    root = os.path.realpath(source.path)
    path = os.path.realpath(path)
    if path == root:
        raise WrongUse(f"the target is in the directory that is the source: {root!r}")
    own = os.path.relpath(path, root).replace(os.sep, "/")
    return None if own.split("/")[0] == ".." else own


def _all_but(own: str, match: str | None) -> Callable[[str], object]:
    """Return what matches, but for the target's own files: it would be copied while it grows."""
    from encore.storage._keys import key_matcher

    matches = key_matcher("*" if match is None else match)
    beside = {own, *(f"{own}-{suffix}" for suffix in ("wal", "shm", "journal"))}
    return lambda key: matches(key) and key not in beside and not key.startswith(f"{own}/")


def _left_out(source: Any, match: str | None) -> Iterator[tuple[str, str, Exception | None]]:
    """Tell what a store cannot give, as far as it concerns the copy."""
    from encore.storage._keys import key_matcher, literal_prefix

    tell = getattr(source, "left_out", None)
    if tell is None:
        return
    prefix = literal_prefix(match or "")
    matches = key_matcher("*" if match is None else match)
    for path, reason, error in tell():
        # In a directory there may be what matches, whether or not its own name does.
        inside = path.endswith("/") and (path.startswith(prefix) or prefix.startswith(path))
        if inside or matches(path):
            yield path, reason, error


def _ls(arguments: argparse.Namespace) -> int:
    pattern = _pattern(arguments.glob)
    with _opened(arguments.store, arguments.option) as store:
        for key in store.keys() if pattern is None else sorted(store.glob(pattern)):
            print(_shown(key))
    return 0


def _query(arguments: argparse.Namespace) -> int:
    criteria = _pairs(arguments.criteria)
    with _opened(arguments.store, arguments.option) as store:
        found = store.query(select=arguments.select, where=criteria)
        for key, metadata in sorted(found, key=lambda item: item[0]):
            print(f"{_shown(key)}\t{_json(metadata)}")
    return 0


def _cat(arguments: argparse.Namespace) -> int:
    key = _key(arguments.key)
    with _opened(arguments.store, arguments.option) as store:
        value = store.get(key)
        output = _bytes_of(sys.stdout, "standard output")
        for buffer in value.iterdata():
            output.write(buffer)
        output.flush()
    return 0


def _put(arguments: argparse.Namespace) -> int:
    key = _key(arguments.key)
    metadata = _pairs(arguments.metadata)
    if "" in metadata:
        raise WrongUse("a name in metadata is missing: '='")
    # Before the store, which is not to be made if there is nothing to put into it.
    if arguments.file == "-":
        _put_stream(arguments, key, _bytes_of(sys.stdin, "standard input"), metadata)
    else:
        # Whole in messages, as the paths of stores are.
        with open(os.path.join(os.getcwd(), arguments.file), "rb") as file:
            _put_stream(arguments, key, file, metadata)
    return 0


def _put_stream(
    arguments: argparse.Namespace, key: str, stream: BinaryIO, metadata: dict[str, Any]
) -> None:
    with _writable(arguments.store, arguments.option, create=True) as store:
        store.set(key, (stream, metadata))


def _rm(arguments: argparse.Namespace) -> int:
    key = _key(arguments.key)
    with _writable(arguments.store, arguments.option) as store:
        store.delete(key)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    with _opened(arguments.store, arguments.option) as store:
        for name, value in store.info().items():
            print(f"{_shown(str(name))}: {value if isinstance(value, str) else _json(value)}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    with _opened(arguments.store, arguments.option) as store:
        look = _maintenance(store, "repair", arguments.store) if arguments.repair else store.check
        findings = look()
    for finding in findings:
        print(_one_line(str(finding)))
    return FAILED if any(finding.outcome != "mended" for finding in findings) else 0


def _compact(arguments: argparse.Namespace) -> int:
    with _opened(arguments.store, arguments.option) as store:
        _maintenance(store, "compact", arguments.store)()
    return 0


def _upgrade(arguments: argparse.Namespace) -> int:
    with _opened(arguments.store, arguments.option) as store:
        print(f"{_maintenance(store, 'upgrade', arguments.store)()} rewritten")
    return 0


def _maintenance(store: AbstractReadOnlyStore, method: str, name: str) -> Any:
    """Return what only some stores can do."""
    found = getattr(store, method, None)
    if found is None:
        from encore.storage._chain import split

        link = split(name)
        hint = f"; use the store within, {link[3]}" if link else ""
        raise WrongUse(f"a {type(store).__name__} has no {method}{hint}")
    return found


def _demo(arguments: argparse.Namespace) -> int:
    from encore._demo import run

    run()
    return 0


def _parser() -> argparse.ArgumentParser:
    from encore import __version__

    parser = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=f"{STORES}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"encore {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )

    def command(run: Any, summary: str, text: str = "") -> argparse.ArgumentParser:
        made = commands.add_parser(
            run.__name__.lstrip("_"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}. {text}".rstrip(),
            epilog=STORES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        made.set_defaults(run=run)
        return made

    def option(made: argparse.ArgumentParser, which: str = "") -> None:
        flag = f"--{which}-option" if which else "--option"
        made.add_argument(
            flag,
            metavar="name=value",
            action="append",
            help=f"an option of the {which.upper() or 'STORE'}, JSON or else text; may be repeated",
        )

    a_store = "what to open, see below"
    a_key = "the key in the store, exactly"
    copy = command(
        _copy,
        "copy what one store has to another",
        "What is there with the same\n"
        "data is skipped, so that an interrupted copy goes on; if only its metadata\n"
        "differ they are set, and it counts as copied. What is there with other data is\n"
        "left alone and counts as failed, unless --overwrite is given. What is in a\n"
        "directory and cannot be a key (links out of it, pipes, names that are no UTF-8\n"
        "or too long) is told of and left out; so is what cannot be read, and then the\n"
        "exit status is 1. The files of the target itself are not copied.",
    )
    copy.add_argument("source", metavar="SOURCE", help="the STORE to read")
    copy.add_argument("target", metavar="TARGET", help="the STORE to write")
    copy.add_argument("--overwrite", action="store_true", help="replace other data in the target")
    copy.add_argument("--match", metavar="GLOB", help="only keys that match: * ? [a-b] [!a]")
    copy.add_argument(
        "--quiet", action="store_true", help="show no progress, and nothing if all went well"
    )
    for which in ("source", "target"):
        option(copy, which)

    ls = command(
        _ls,
        "list keys in order",
        "Characters that cannot be printed, and the\n"
        r"backslash, are shown as escapes: \n, \\, \x1b, \u2028.",
    )
    ls.add_argument("store", metavar="STORE", help=a_store)
    option(ls)
    ls.add_argument("glob", metavar="GLOB", nargs="?", help="only keys that match: * ? [a-b] [!a]")

    query = command(
        _query,
        "list keys and metadata that match",
        "Each line is a key as ls shows it,\na tab, and the metadata as JSON.",
    )
    query.add_argument("store", metavar="STORE", help=a_store)
    option(query)
    query.add_argument(
        "criteria", metavar="name=value", nargs="*", help="must be equal; JSON, or else text"
    )
    query.add_argument(
        "--select", metavar="NAME", action="append", help="show only this name; may be repeated"
    )

    cat = command(_cat, "write the data of a key to standard output")
    cat.add_argument("store", metavar="STORE", help=a_store)
    option(cat)
    cat.add_argument("key", metavar="KEY", help=a_key)

    put = command(_put, "store a file", "Data and metadata of the key are replaced.")
    put.add_argument("store", metavar="STORE", help=a_store)
    option(put)
    put.add_argument("key", metavar="KEY", help=a_key)
    put.add_argument("file", metavar="FILE", help="its data; - is standard input")
    put.add_argument(
        "metadata", metavar="name=value", nargs="*", help="metadata; JSON, or else text"
    )

    rm = command(_rm, "delete a key")
    rm.add_argument("store", metavar="STORE", help=a_store)
    option(rm)
    rm.add_argument("key", metavar="KEY", help=a_key)

    info = command(_info, "describe a store")
    info.add_argument("store", metavar="STORE", help=a_store)
    option(info)

    check = command(
        _check,
        "look for damage",
        "Everything is read. Each line is something\n"
        "that is wrong; then the exit status is 1, unless all could be mended.",
    )
    check.add_argument("store", metavar="STORE", help=a_store)
    option(check)
    check.add_argument(
        "--repair", action="store_true", help="mend what can be mended, and say what was lost"
    )

    compact = command(_compact, "give unused space back (sqlite)")
    compact.add_argument("store", metavar="STORE", help=a_store)
    option(compact)

    upgrade = command(
        _upgrade,
        "rewrite what EnCore 0.8 wrote (sqlite)",
        "Metadata become JSON, so\nthat they can be indexed; EnCore 0.8 cannot read them then. "
        "What JSON\ncannot hold is left as it is; check names it.",
    )
    upgrade.add_argument("store", metavar="STORE", help=a_store)
    option(upgrade)

    command(_demo, "a tour on real files, in a temporary directory")
    return parser


if __name__ == "__main__":
    sys.exit(main())
