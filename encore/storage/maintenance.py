"""What check() and repair() of a store find."""

from __future__ import annotations

__all__ = ["Finding"]


class Finding:
    """Something that is wrong in a store.

    Attributes
    ----------
    key : str or None
        The key concerned, None where it is no single one.
    problem : str
        What is wrong, in a few words.
    outcome : {'', 'mended', 'lost', 'left'}
        What repair() did: nothing is lost if it is 'mended'; 'lost' is data or metadata that could
        not be saved; 'left' is what repair() does not touch. Empty from check().
    """

    __slots__ = ("key", "outcome", "problem")

    def __init__(self, key: str | None, problem: str, outcome: str = "") -> None:
        self.key = key
        self.problem = problem
        self.outcome = outcome

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Finding) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        where = "" if self.key is None else f"{self.key!r}: "
        return f"{where}{self.problem}{self.outcome and f' ({self.outcome})'}"

    def __repr__(self) -> str:
        return f"Finding({self.key!r}, {self.problem!r}, {self.outcome!r})"
