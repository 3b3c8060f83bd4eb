"""python -m benchmarks: measure, print a table, write JSON and the page of the documentation."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import report
from .measure import Effort, measure
from .subjects import PINS, ROOT
from .suite import load

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITES = Path(__file__).with_name("suites")
PAGE = ROOT / "docs" / "benchmarks.rst"
AGAINST = {"encore08": {"encore08"}, "peers": set(PINS) - {"encore08"}, "none": set[str]()}


def _names(text: str) -> list[str]:
    return text.split(",")


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures this project side by side with EnCore 0.8, peers and a limit.",
        epilog=f"""\
Suites: {", ".join(sorted(path.stem for path in SUITES.glob("[!_]*.py")))}. What they are compared with is
installed with pip in a cache directory ($XDG_CACHE_HOME/encore-benchmarks).
In the table, S says {report.RATIOS["S"]}, L {report.RATIOS["L"]},
G {report.RATIOS["G"]}.
The status is 1 if a subject failed, or with --strict if a goal is missed.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--suite", metavar="NAME,...", type=_names, help="only these suites")
    add("--row", metavar="TEXT", default="", help="only rows with this text in their name")
    against = "encore08, peers (all of them), names of peers, or none; default: encore08,peers"
    add("--against", metavar="NAME,...", type=_names, help=against)
    add("--rounds", type=_count, metavar="N", help=f"default: {Effort.rounds}")
    level = parser.add_mutually_exclusive_group()
    help = "short and imprecise, with smaller files and fewer keys"
    level.add_argument("--quick", action="store_true", help=help)
    level.add_argument("--large", action="store_true", help="a million keys too; takes long")
    add("--json", type=Path, metavar="FILE", help="write all figures to a file")
    add("--write-docs", action="store_true", help="write docs/benchmarks.rst")
    add("--strict", action="store_true", help="a missed goal is an error")
    add("--list", action="store_true", help="list suites, rows and goals")
    return parser


def main(argv: Sequence[str] | None = None, folder: Path = SUITES) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    files = {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}
    against: set[str] = set()
    for name in options.suite or files:
        if name not in files:
            parser.error(f"no suite {name!r}; there are {', '.join(files)}")
    for name in options.against or ["encore08", "peers"]:
        if name not in AGAINST and name not in PINS:
            parser.error(f"no subject {name!r}; there are {', '.join([*AGAINST, *PINS])}")
        against |= AGAINST.get(name, {name})
    if options.write_docs and (options.suite or options.row or options.against):
        parser.error("--write-docs writes everything: leave out --suite, --row and --against")

    effort = Effort(2, 2, 0.2) if options.quick else Effort()
    effort = Effort(options.rounds or effort.rounds, effort.slices, effort.scale)
    level = "quick" if options.quick else "large" if options.large else "usual"
    about = report.facts(effort)
    suites = []
    for name in options.suite or files:
        module = load(files[name])
        title = (module.__doc__ or name).splitlines()[0].rstrip(".")
        rows = [
            (n, row)
            for n, row in enumerate(module.ROWS)
            if options.row in row.name and level in row.levels
        ]
        if options.list:
            print(f"{name}: {title}")
            for _, row in rows:
                print("   ", row.name, *(f"[{goal}]" for goal in report.goals(row)))
        elif rows:
            subjects = ["encore", *(pin for pin in PINS if pin in against), "limit"]
            suites.append(report.Suite(name, title, measure(files[name], rows, subjects, effort)))
            print(report.table(suites[-1]), end="\n\n", flush=True)
    if options.list:
        return 0
    if not suites:
        parser.error(f"no row has {options.row!r} in its name")

    if options.json:
        options.json.write_text(json.dumps(report.as_data(suites, about), indent=1) + "\n", "utf-8")
    if options.write_docs:
        PAGE.write_text(report.page(suites, about), "utf-8")
    missed = report.missed(suites)
    failed = any(result.errors for suite in suites for result in suite.results)
    if missed:
        print(f"{len(missed)} rows have goals that were not reached", file=sys.stderr)
    return 1 if failed or (options.strict and missed) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        # As of a program that SIGPIPE ends.
        os._exit(141)
