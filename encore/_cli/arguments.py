"""The arguments of all commands, and the help about them."""

from __future__ import annotations

import argparse

from . import PROGRAM, WrongUse, commands, copying, serving

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["STORES", "parser_of_all"]

DESCRIPTION = "Look into stores, change them, copy between them, and serve them."

STORES = """\
A STORE is one of
  sqlite:PATH       a database file; sqlite::memory: is an empty one in memory
  fs:PATH           a file system store: a directory of data and metadata
  lockfs:PATH       the same for many computers, with a log of changes
  dir:PATH          any directory, read-only
  memory:           an empty store in memory
  http://HOST/      what a server has, as 'serve' makes one; https:// too;
                    http://NAME:PASSWORD@HOST/ logs in
  static:URL        files of a web server with an index.json, read-only;
                    static:file:/PATH those in a directory
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
put, copy and sync make the database or directory they write to if there is
none, and a cache its own.
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
  python -m encore sync fs:photos http://backup:8080/ --delete --dry-run
  python -m encore check sqlite:photos.db
  python -m encore serve sqlite:photos.db --readonly --browse
  python -m encore demo

Write -- before arguments that begin with a dash. The exit status is 0 if all
went well, 1 if something failed, 2 for wrong use.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise WrongUse(f"{message} (--help says more)")


def _count(text: str) -> int:
    count = int(text) if text.isdecimal() and len(text) < 6 else 0
    if not count:
        raise argparse.ArgumentTypeError(f"{text!a} is no number of threads")
    return count


def parser_of_all() -> argparse.ArgumentParser:
    from encore import __version__

    parser = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=f"{STORES}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"encore {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )

    def command(run: Any, summary: str, text: str = "") -> argparse.ArgumentParser:
        made = subparsers.add_parser(
            run.__name__,
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
        copying.copy,
        "copy what one store has to another",
        "What is there with the same\n"
        "data is skipped, so that an interrupted copy goes on; if only its metadata\n"
        "differ they are set, and it counts as copied. What is there with other data is\n"
        "left alone and counts as failed, unless --overwrite is given. What is in a\n"
        "directory and cannot be a key (links out of it, pipes, names that are no UTF-8\n"
        "or too long) is told of and left out; so is what cannot be read, and then the\n"
        "exit status is 1. The files of the target itself are not copied.",
    )
    copy.set_defaults(on_conflict="error")
    copy.add_argument(
        "--overwrite",
        dest="on_conflict",
        action="store_const",
        const="overwrite",
        help="replace other data in the target",
    )
    sync = command(
        copying.sync,
        "make one store like another",
        "As copy --overwrite does; and with --delete,\n"
        "keys of the target that the source does not have are deleted, unless anything\n"
        "has failed: what cannot be read is not known to be gone. With --dry-run, each\n"
        "line is what would be done: copy KEY or delete KEY, with the key as ls shows it.",
    )
    sync.add_argument("--delete", action="store_true", help="delete what the source has not")
    sync.add_argument("--dry-run", action="store_true", help="do nothing, print what would be done")
    sync.set_defaults(on_conflict="overwrite")
    sync.add_argument(
        "--newer",
        dest="on_conflict",
        action="store_const",
        const="newer",
        help="replace only what was modified later in the source",
    )
    for made in (copy, sync):
        made.add_argument("source", metavar="SOURCE", help="the STORE to read")
        made.add_argument("target", metavar="TARGET", help="the STORE to write")
        made.add_argument("--match", metavar="GLOB", help="only keys that match: * ? [a-b] [!a]")
        made.add_argument(
            "--workers",
            metavar="N",
            type=_count,
            default=4,
            help="so many threads at most, where a store is far away; 4",
        )
        made.add_argument(
            "--quiet", action="store_true", help="show no progress, and no counts if all went well"
        )
        for which in ("source", "target"):
            option(made, which)

    ls = command(
        commands.ls,
        "list keys in order",
        "Characters that cannot be printed, and the\n"
        r"backslash, are shown as escapes: \n, \\, \x1b, \u2028.",
    )
    ls.add_argument("store", metavar="STORE", help=a_store)
    option(ls)
    ls.add_argument("glob", metavar="GLOB", nargs="?", help="only keys that match: * ? [a-b] [!a]")

    query = command(
        commands.query,
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

    cat = command(commands.cat, "write the data of a key to standard output")
    cat.add_argument("store", metavar="STORE", help=a_store)
    option(cat)
    cat.add_argument("key", metavar="KEY", help=a_key)

    put = command(commands.put, "store a file", "Data and metadata of the key are replaced.")
    put.add_argument("store", metavar="STORE", help=a_store)
    option(put)
    put.add_argument("key", metavar="KEY", help=a_key)
    put.add_argument("file", metavar="FILE", help="its data; - is standard input")
    put.add_argument(
        "metadata", metavar="name=value", nargs="*", help="metadata; JSON, or else text"
    )

    rm = command(commands.rm, "delete a key")
    rm.add_argument("store", metavar="STORE", help=a_store)
    option(rm)
    rm.add_argument("key", metavar="KEY", help=a_key)

    info = command(commands.info, "describe a store")
    info.add_argument("store", metavar="STORE", help=a_store)
    option(info)

    check = command(
        commands.check,
        "look for damage",
        "Everything is read. Each line is something\n"
        "that is wrong; then the exit status is 1, unless all could be mended.",
    )
    check.add_argument("store", metavar="STORE", help=a_store)
    option(check)
    check.add_argument(
        "--repair", action="store_true", help="mend what can be mended, and say what was lost"
    )

    compact = command(commands.compact, "give unused space back (sqlite)")
    compact.add_argument("store", metavar="STORE", help=a_store)
    option(compact)

    upgrade = command(
        commands.upgrade,
        "rewrite what EnCore 0.8 wrote (sqlite)",
        "Metadata become JSON, so\nthat they can be indexed; EnCore 0.8 cannot read them then. "
        "What JSON\ncannot hold is left as it is; check names it.",
    )
    upgrade.add_argument("store", metavar="STORE", help=a_store)
    option(upgrade)

    serve = command(
        serving.serve,
        "give access to a store over HTTP",
        "DynamicURLStore and StaticURLStore\n"
        "speak with it, curl does, and with --browse a browser. Its address is printed\n"
        "when it answers. Control-C and SIGTERM stop it: requests that are being\n"
        "answered may end first, a second Control-C cuts them off.",
    )
    serve.add_argument("store", metavar="STORE", help=a_store)
    option(serve)
    serving.add_arguments(serve)

    user = command(
        commands.user,
        "add a user of a server, or change a password",
        "The password is asked for, or\nread from standard input if that is no terminal. "
        "FILE is for serve --users.",
    )
    user.epilog = None
    user.add_argument("file", metavar="FILE", help="the file of users, made if there is none")
    user.add_argument("name", metavar="NAME", help="the name to log in with, without colons")

    command(commands.demo, "a tour on real files, in a temporary directory")
    return parser
