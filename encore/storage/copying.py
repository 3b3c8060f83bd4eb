"""From one store to another: copy_store() and sync_store()."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..events.abstract_event_manager import BaseEventManager
    from ..events.progress_events import Cancel
    from ._copier import Match
    from .abstract_store import AbstractReadOnlyStore, AbstractStore

__all__ = ["CopyReport", "copy_store", "sync_store"]


class CopyReport:
    """What became of each key.

    Attributes
    ----------
    copied : list of str
        Keys that the target did not have like this.
    skipped : list of str
        Keys that were left as they are.
    failed : dict of str to Exception
        Keys that could not be copied, or deleted, and why.
    deleted : list of str
        Keys that sync_store() deleted.
    dry_run : bool
        Whether nothing was done, and this is what would be.
    """

    def __init__(self, dry_run: bool = False) -> None:
        self.dry_run = dry_run
        self.copied: list[str] = []
        self.skipped: list[str] = []
        self.failed: dict[str, Exception] = {}
        self.deleted: list[str] = []

    def __str__(self) -> str:
        text = f"{len(self.copied)} copied, {len(self.skipped)} skipped, {len(self.failed)} failed"
        if self.dry_run:
            text = f"would be: {text}"
        return f"{text}, {len(self.deleted)} deleted" if self.deleted else text

    def __repr__(self) -> str:
        return f"<CopyReport: {self}>"


def copy_store(
    source: AbstractReadOnlyStore,
    target: AbstractStore,
    *,
    match: Match = None,
    on_conflict: str = "error",
    workers: int = 4,
    event_manager: BaseEventManager | None = None,
    cancel: Cancel | None = None,
) -> CopyReport:
    """Copy data and metadata of all keys, or of some, from one store to another.

    A key whose data the target has already (same size and SHA-256) is not written again; where only
    its metadata differ they are set. So a copy that was interrupted is completed by the same call.

    Keys are written in transactions of limited size where the target has them. What goes wrong with
    one key is noted in the report and stops no other; what makes a transaction as a whole fail is
    noted for each of its keys. A key that disappears from the source meanwhile is none of these.

    Parameters
    ----------
    source, target : store
        Two different ones, connected. The target may lie in the source, as a PrefixStore of it does,
        or of the same file opened twice: then its own keys are left out of the source.
    match : str or callable, optional
        A pattern as for glob(), or a function that says of a key whether to copy it.
    on_conflict : {'error', 'skip', 'overwrite', 'newer'}
        What to do about a key that the target has with other data: note it as failed and leave it;
        leave whatever is there, without a look at it, for all keys that the target has; write it;
        write it, and metadata that differ, only if it was modified later in the source, which is
        what the clocks of the two stores say.
    workers : int > 0
        How many threads at most read a source, or write a target, that has no transactions.
    event_manager : BaseEventManager, optional
        Where to tell of the progress; by default the target's.
    cancel : object with `cancelled`, optional
        Asked, by an attribute or a method `cancelled`, before each key and in the middle of long
        ones, whether to break off. The target keeps the keys that are complete.

    Returns
    -------
    CopyReport

    Raises
    ------
    Cancelled
        If that is what `cancel` says; its `report` is the CopyReport until then, if anything had
        been done.

    Events
    ------
    StoreProgressStartEvent, StoreProgressStepEvent, StoreProgressEndEvent for the whole, in bytes,
    with an empty `key`; the events of the target for each key
    """
    from ._copier import Copier

    copier = Copier(CopyReport(), source, target, on_conflict, workers, cancel)
    copier.run(match, event_manager)
    return copier.report


def sync_store(
    source: AbstractReadOnlyStore,
    target: AbstractStore,
    *,
    match: Match = None,
    on_conflict: str = "overwrite",
    delete: bool = False,
    dry_run: bool = False,
    workers: int = 4,
    event_manager: BaseEventManager | None = None,
    cancel: Cancel | None = None,
) -> CopyReport:
    """Make one store like another: as copy_store(), and what is gone may be deleted.

    Parameters
    ----------
    source, target, match, workers, event_manager, cancel
        As for copy_store(); keys that do not match are not deleted either.
    on_conflict : {'overwrite', 'newer', 'skip', 'error'}
        As for copy_store().
    delete : bool
        Whether keys of the target that the source does not have are deleted. If any key has failed,
        none is, as rsync does it after an error: what cannot be read is not known to be gone. Nor is
        what the source has under another name, where it lies in the target.
    dry_run : bool
        Report what would be done, and do nothing.

    Returns
    -------
    CopyReport

    Raises, events
    --------------
    As copy_store()
    """
    from ._copier import Copier

    report = CopyReport(dry_run)
    copier = Copier(report, source, target, on_conflict, workers, cancel, dry_run)
    copier.run(match, event_manager)
    if delete and not copier.report.failed:
        copier.delete(match)
    return copier.report
