"""The process of one subject: measures what it is told, one line in, one line out.

``child.py SUITE SUBJECT [PATH]`` is run as a script by an isolated interpreter, so that nothing but
the standard library and the subject can be imported while it is measured.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from benchmarks.suite import Measure, Row


def ready(row: Row, subject: str, seconds: float) -> tuple[Measure, int]:
    """What measures the row, warm, and the number of operations that take that long."""
    measure = row.setups[subject]()
    count = row.count or 1
    if not row.alone:
        measure(count)  # what is imported or made on first use
    while row.count is None and (took := measure(count)) < seconds:
        # A short measurement says little about a long one, so not too far at once.
        count = int(count * min(10.0, max(1.5, 1.1 * seconds / max(took, 1e-9)))) + 1
    return measure, count


def main(suite: str, subject: str, path: str | None = None) -> None:
    root = str(Path(__file__).resolve().parent.parent)
    sys.path.insert(0, root)
    from benchmarks.suite import Skip, load

    rows = load(Path(suite)).ROWS
    sys.path.remove(root)
    if path is not None:
        sys.path.insert(0, path)

    # What a subject prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    measures: dict[int, tuple[Measure, int]] = {}
    for line in sys.stdin:
        number, seconds = json.loads(line)
        answer: dict[str, object]
        try:
            if number not in measures:
                measures[number] = ready(rows[number], subject, seconds)
            measure, count = measures[number]
            answer = {"value": measure(count) / count}
        except Skip as reason:
            answer = {"skipped": str(reason)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
