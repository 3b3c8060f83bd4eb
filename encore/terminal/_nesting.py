"""Which operation is nested in which, and which of those that have ended are still shown.

An operation is nested in the one that was started last and still runs in the same context: the same
thread, the same task of asyncio, or a job whose executor carries the context of who submitted it.
"""

from __future__ import annotations

# The C modules that weakref and contextvars have these names from: importing those takes longer.
from _contextvars import ContextVar
from _weakref import ref

__all__ = ["Entry", "Forest", "Node", "count", "enter", "innermost", "kind"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .writers import ProgressWriter

#: The operations started in this context. Weakly, since a context may live for ever.
_started: ContextVar[tuple[ref[Node], ...]] = ContextVar("encore.terminal.started", default=())


class Node:
    """An operation with what is nested in it.

    Parameters
    ----------
    operation : ProgressWriter
        The operation.
    owner : object
        Whose node it is: operations of different screens are not nested in each other.
    """

    __slots__ = (
        "__weakref__",
        "children",
        "ended",
        "folded",
        "operation",
        "over",
        "owner",
        "parent",
        "past",
        "state",
    )

    def __init__(self, operation: ProgressWriter, owner: object) -> None:
        self.operation = operation
        self.owner = owner
        self.parent: Node | None = None
        #: Set at its end at once, where the rest is for who paints to change.
        self.over = False
        #: Those that run and the last ones that have ended, in the order of their start.
        self.children: list[Node] = []
        #: The latter once more.
        self.past: list[Node] = []
        #: How many others have ended in which way.
        self.folded: dict[str, int] = {}
        self.ended: float | None = None
        #: 'new' before it is shown, 'running', how it ended, or 'dropped'.
        self.state = "new"

    @property
    def depth(self) -> int:
        """In how many operations it is nested."""
        depth, node = 0, self.parent
        while node is not None:
            depth, node = depth + 1, node.parent
        return depth


class Entry:
    """One line to be shown: an operation, or how many others there are.

    Parameters
    ----------
    depth : int
        In how many operations it is nested.
    node : Node, optional
        The operation, as it is now.
    counts : dict
        Without an operation, how many have ended in which way.
    """

    __slots__ = ("counts", "depth", "ended", "operation", "state")

    def __init__(
        self, depth: int, node: Node | None = None, counts: dict[str, int] | None = None
    ) -> None:
        self.depth = depth
        self.operation = None if node is None else node.operation
        self.ended = None if node is None else node.ended
        self.state = "running" if node is None else node.state
        self.counts = counts or {}


def kind(state: str) -> str:
    """What counts operations of this state together: 'running', 'done', 'warning' or 'failed'."""
    if state in ("running", "warning"):
        return state
    return "done" if state in ("normal", "stopped") else "failed"


def innermost(owner: object) -> Node | None:
    """The operation that one started now is nested in."""
    for reference in reversed(_started.get()):
        node = reference()
        if node is not None and not node.over and node.owner is owner:
            return node
    return None


def enter(node: Node) -> None:
    """Nest in this operation what is started in this context while it runs."""
    running = []
    for reference in _started.get():
        other = reference()
        if other is not None and not other.over:
            running.append(reference)
    _started.set((*running, ref(node)))


class Forest:
    """The operations of a screen. Only who paints it calls the methods.

    Parameters
    ----------
    kept : int
        Of how many operations nested in the same one, that have ended, the lines stay.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.roots: list[Node] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.walk())} operations>"

    def add(self, node: Node) -> None:
        """Take in an operation; it is nested if its parent is still running."""
        if node.parent is not None and node.parent.state != "running":
            node.parent = None
        self._siblings(node).append(node)
        node.state = "running"

    def _siblings(self, node: Node) -> list[Node]:
        return self.roots if node.parent is None else node.parent.children

    def drop(self, node: Node, now: float) -> None:
        """Leave out an operation and what has ended in it."""
        if node.state == "running":
            node.ended = now
            node.state = "dropped"
            self._remove(node)
            self._lines(node, 0)

    def _remove(self, node: Node) -> None:
        """Take out an operation; what runs in it moves up to its place."""
        siblings = self._siblings(node)
        at = siblings.index(node)
        siblings[at : at + 1] = self._release(node)

    @staticmethod
    def _release(node: Node) -> list[Node]:
        """Let go of the operations that still run in this one."""
        running = [child for child in node.children if child.ended is None]
        node.children = [child for child in node.children if child.ended is not None]
        for child in running:
            child.parent = node.parent
        return running

    def end(self, node: Node, now: float, state: str) -> list[Entry]:
        """Take note of an end; return the lines that are shown for the last time now.

        An operation that is nested keeps its line as long as that it is nested in is running, or
        until others have ended since.
        """
        if node.state != "running":
            return []
        node.ended = now
        node.state = state
        parent = node.parent
        if parent is None or not self.kept:
            depth = node.depth
            self._remove(node)
            return self._lines(node, depth)
        siblings = parent.children
        at = siblings.index(node) + 1
        siblings[at:at] = self._release(node)
        parent.past.append(node)
        return self._fold(parent)

    def _fold(self, parent: Node) -> list[Entry]:
        """Count what ended first in this operation instead of showing it, if there is much.

        The lines of a failure are returned, to be told in any case.
        """
        past = parent.past
        # A line that says that one more has ended could as well be the line of that one.
        if len(past) <= (self.kept - 1 if parent.folded else self.kept):
            return []
        past.sort(key=_importance)
        told = []
        depth = parent.depth + 1
        while len(past) >= self.kept:
            node = past.pop(0)
            parent.children.remove(node)
            lines = self._lines(node, depth)
            if kind(node.state) != "done":
                told += lines
            for entry in lines:
                count(parent.folded, entry)
        return told

    @staticmethod
    def _lines(root: Node, depth: int) -> list[Entry]:
        """The lines of an operation and all in it; the operations let go of each other."""
        entries = _walk([root], depth)
        nodes = [root]
        while nodes:
            node = nodes.pop()
            nodes += node.children
            if node.ended is None:
                node.state = "dropped"
            node.children = []
            node.past = []
            node.parent = None
        return entries

    def walk(self) -> list[Entry]:
        """All lines, nested operations behind those they are nested in."""
        return _walk(self.roots, 0)

    def clear(self) -> None:
        """Forget all operations."""
        roots, self.roots = self.roots, []
        for node in roots:
            self._lines(node, 0)


def _importance(node: Node) -> tuple[bool, float]:
    return kind(node.state) != "done", node.ended or 0.0


def count(counts: dict[str, int], entry: Entry) -> None:
    """Count what a line tells of."""
    for name, number in (entry.counts or {kind(entry.state): 1}).items():
        counts[name] = counts.get(name, 0) + number


def _walk(roots: list[Node], depth: int) -> list[Entry]:
    # Not recursive: operations that are nested a thousand times are odd, but no reason to fail.
    entries = []
    rest: list[tuple[int, Node | dict[str, int]]] = [(depth, node) for node in reversed(roots)]
    while rest:
        depth, node = rest.pop()
        if not isinstance(node, Node):
            entries.append(Entry(depth, counts=node))
            continue
        entries.append(Entry(depth, node))
        if node.folded:
            rest.append((depth + 1, dict(node.folded)))
        rest += [(depth + 1, child) for child in reversed(node.children)]
    return entries
