"""Back up a directory tree into a Sqlite store; what is there already is not copied again.

Usage: python examples/backup.py DIRECTORY DATABASE
"""

from __future__ import annotations

import sys

from encore.storage.api import copy_store, open_store


def main(directory: str, database: str) -> None:
    backup = open_store(f"sqlite:{database}", create=True)
    with open_store(f"dir:{directory}") as source, backup as target:
        report = copy_store(source, target, on_conflict="overwrite")
    print(report)
    for key, error in report.failed.items():
        print(f"{key}: {error}", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
