"""What check() and repair() of a store in a directory have found, and how they tell it."""

from __future__ import annotations

from .maintenance import Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# How many names are told, of foreign files and of keys that have the same problem.
_SOME = 3


class Problem:
    """Something that is wrong, and what mends it."""

    def __init__(
        self,
        key: str | None,
        text: str,
        mend: Callable[[Problem], str] | None = None,
        evidence: object = None,
        *,
        name: str = "",
        outcome: str = "mended",
        is_common: bool = False,
    ) -> None:
        self.key = key
        self.text = text
        #: That of the files concerned, without suffix.
        self.name = name
        #: Returns the outcome.
        self.mend = mend
        #: What stays the same for as long as nobody does anything about it.
        self.evidence = evidence
        #: That of who tidies up.
        self.outcome = outcome
        #: Whether it is told once for all keys that have it: a copy of a directory has it everywhere.
        self.is_common = is_common

    def is_like(self, other: Problem) -> bool:
        return (self.key, self.text, self.evidence) == (other.key, other.text, other.evidence)

    def finding(self, outcome: str = "") -> Finding:
        return Finding(self.key, self.text, outcome)


def findings_of(problems: Iterable[tuple[Problem, str]]) -> list[Finding]:
    """Return a finding for each problem and its outcome; one for all that are told once."""
    findings: list[Finding] = []
    common: dict[tuple[str, str], list[Problem]] = {}
    for problem, outcome in problems:
        if problem.is_common:
            common.setdefault((problem.text, outcome), []).append(problem)
        else:
            findings.append(problem.finding(outcome))
    for (text, outcome), found in common.items():
        if len(found) == 1:
            findings.append(found[0].finding(outcome))
        else:
            some = some_of(sorted(str(problem.key) for problem in found))
            findings.append(Finding(None, f"{len(found)} keys ({some}): {text}", outcome))
    return findings


def some_of(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:_SOME])) + ", …" * (len(names) > _SOME)
