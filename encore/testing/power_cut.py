"""What a power cut, or kill -9, at any moment leaves of the files of a program.

A program runs under strace (Linux), which records its calls that change files. They are replayed
on a model of a disk that loses what was not synced: for each moment there are many states in which
the disk may be found. Each can be put into a directory, to see what the program makes of it. What
the program writes to its standard output is recorded too, so that it is known what it had
acknowledged when the power failed.

PowerCuts is a mixin for test cases that does all that with a store.
"""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Any

from . import _history, _strace
from ._disk import Disk, UnsupportedCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from unittest import TestCase as _Case

    from ._disk_nodes import Image, Loss
    from ._history import Contents
    from ._strace import Call
else:
    _Case = object

__all__ = ["Cut", "PowerCuts", "Recording", "UnsupportedCall", "record", "why_not"]


def why_not() -> str | None:
    """Return why programs cannot be recorded here, None if they can."""
    return _strace.why_not()


def record(
    command: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    ignored: Iterable[str] = ("*-shm",),
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Recording:
    """Run a program to its end, and record what it does to the files below a directory.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments.
    folder : str or PathLike
        What is there before is taken to be on the disk.
    ignored : iterable of str
        Patterns of the names of files that need not survive, by default those that SQLite maps
        into memory and makes anew.
    stdin : bytes
        What the program reads from its standard input.
    env : mapping, optional
        Its environment.
    timeout : float, in seconds, optional

    Returns
    -------
    Recording

    Raises
    ------
    RuntimeError
        If there is no strace (see :func:`why_not`), or the program fails.
    UnsupportedCall
        If it changes files in a way that is not known here: through memory, for example.
    """
    reason = why_not()
    if reason is not None:
        raise RuntimeError(reason)
    before = Disk(os.fspath(folder), ignored)
    calls = _strace.run(command, stdin=stdin, env=env, timeout=timeout)
    return Recording(before, calls)


class Cut:
    """A power cut at some moment of a recording, and what may be found after it.

    Attributes
    ----------
    position : int
        How many steps of the recording were done.
    lines : list of str
        What the program had written to its standard output.
    what : str
        Where it was, and what arrived on the disk of what was not synced.
    """

    def __init__(self, position: int, lines: list[str], what: str, image: Image) -> None:
        self.position = position
        self.lines = lines
        self.what = what
        self._image = image

    def __repr__(self) -> str:
        return f"<power cut: {self.what}>"

    def build(self, folder: str | os.PathLike[str]) -> None:
        """Put the files that are found after the power cut into an empty directory."""
        self._image.build(os.fspath(folder))


class Recording:
    """What a program has done to the files below a directory.

    Attributes
    ----------
    steps : list
        The calls, and what was written to the standard output.
    """

    def __init__(self, before: Disk, calls: Sequence[Call]) -> None:
        self._before = pickle.dumps(before)
        self._calls = calls
        self.steps = [call for call in calls if before.apply(call) or _said(call, before)]

    def __repr__(self) -> str:
        return f"<recording of {len(self.steps)} steps>"

    def _replay(self) -> Iterator[tuple[int, list[str], str, Disk]]:
        """Walk over the moments: the number, what was said, what comes next, and the disk."""
        disk: Disk = pickle.loads(self._before)
        said = b""
        moments = iter(enumerate([*self.steps, None]))
        position, following = next(moments)
        yield position, [], f"before {following}", disk
        for call in self._calls:
            disk.apply(call)
            if call is following:
                said += _said(call, disk)
                position, following = next(moments)
                lines = said.decode(errors="replace").split("\n")[:-1]
                yield position, lines, f"after {call}", disk

    def cuts(
        self, sample: int | None = None, seed: object = None, *, after_lines: bool = False
    ) -> Iterator[Cut]:
        """Walk over power cuts; over those that lose everything that was not synced first.

        Parameters
        ----------
        sample : int, optional
            So many, chosen at random; a third of them loses everything that was not synced. By
            default all moments, and for each of them: all is lost or all arrives, the changes of
            each file and directory are cut off at each place, and some combinations.
        seed : str or int, optional
            Of what is chosen at random.
        after_lines : bool
            Cut the power only when the program has just written to its standard output, and lose
            everything that was not synced.
        """
        random = Random(repr(seed))
        if sample is not None:
            yield from self._sample(sample, random)
            return
        seen: set[tuple[bytes, int]] = set()
        for first in (True, False)[: 1 if after_lines else 2]:
            for position, lines, where, disk in self._replay():
                if after_lines and not (position and _said(self.steps[position - 1], disk)):
                    continue
                for loss in disk.losses(random):
                    cut = _cut(position, lines, where, disk, loss, seen)
                    if cut is not None:
                        yield cut
                    if first:
                        break

    def _sample(self, sample: int, random: Random) -> Iterator[Cut]:
        chosen = [random.randrange(len(self.steps) + 1) for _ in range(sample)]
        for position, lines, where, disk in self._replay():
            for _ in range(chosen.count(position)):
                losses = list(disk.losses(random))
                loss = losses[0] if random.random() < 1 / 3 else random.choice(losses)
                cut = _cut(position, lines, where, disk, loss)
                assert cut is not None
                yield cut

    def kills(self, sample: int | None = None, seed: object = None) -> Iterator[Cut]:
        """Walk over the moments at which the program can be killed, or some of them.

        Nothing of what it has done is lost.
        """
        random = Random(repr(seed))
        moments: Sequence[int] = range(len(self.steps) + 1)
        if sample is not None:
            moments = random.sample(moments, min(sample, len(moments)))
        seen: set[tuple[bytes, int]] = set()
        for position, lines, where, disk in self._replay():
            if position not in moments:
                continue
            # The second one is that everything arrives; there is none if everything is synced.
            *_, loss = islice(disk.losses(random), 2)
            cut = _cut(position, lines, where, disk, loss, seen)
            if cut is not None:
                yield cut


def _said(call: Call, disk: Disk) -> bytes:
    """Return what a call wrote to the standard output."""
    if call.name == "write" and call.files[0][0] == "1" and not disk.holds(call.files[0][1]):
        return call.strings[0][: call.result]
    return b""


def _cut(
    position: int,
    lines: list[str],
    where: str,
    disk: Disk,
    loss: Loss,
    seen: set[tuple[bytes, int]] | None = None,
) -> Cut | None:
    """Return a cut; None if the same was found there before."""
    image = disk.image(loss)
    if seen is not None:
        found = image.fingerprint(), len(lines)
        if found in seen:
            return None
        seen.add(found)
    what = f"step {position}, {where}; arrived: {disk.describe(loss)}"
    return Cut(position, lines, what, image)


class PowerCuts(_Case):
    """Whether a store keeps its promises through power cuts and kills at any moment.

    Mix it into a ``unittest.TestCase`` and define ``make_store_in``::

        class TestMyStore(PowerCuts, unittest.TestCase):
            def make_store_in(self, folder):
                return MyStore(os.path.join(folder, "store"))

    The store is taken through a history of changes in a child process. After each cut it is opened
    and looked at: every change that was acknowledged is there, the one that was under way is there
    or not, whole; nothing else has changed, and the store can be written.

    That is checked after power cuts if ``info()['durable']`` says 'power', and after kills if it
    says so or 'process'. The checks are skipped where there is no strace.

    Hooks
    -----
    make_store_in(folder)
        A store, not connected, that can be pickled and keeps everything below a directory: a new
        one in an empty directory, the one that is there otherwise.
    leftovers(folder)
        How many files (rows, objects) there are: a cut must not make it grow.

    Attributes
    ----------
    sample : int or None
        How many power cuts are tried, chosen at random; all of them if None.
    seed : str or int, optional
        Of the choice; by default another one each time. A failure says which it was.
    patience : float, in seconds
        How long the history may take.
    setup : str
        Python code that the child process runs first.
    """

    sample: int | None = 60
    seed: object = None
    patience = 120.0
    setup = ""

    def make_store_in(self, folder: str) -> Any:
        raise NotImplementedError

    def leftovers(self, folder: str) -> int | None:
        """Count the files that are not SQLite's."""
        return sum(
            not name.endswith(("-wal", "-shm", "-journal"))
            for _, _, names in os.walk(folder)
            for name in names
        )

    # The checks

    def test_power_cuts_lose_nothing_that_was_acknowledged(self) -> None:
        """Durability 'power': once a call returned, its effect survives power loss."""
        recording, store = self._recorded({"power"})
        seed = self._seed()
        self._check(recording.cuts(self.sample, seed), store, f"power cut, seed {seed!r}")

    def test_kills_lose_nothing_that_was_acknowledged(self) -> None:
        """Durability 'process': once a call returned, its effect survives kill -9."""
        recording, store = self._recorded({"power", "process"})
        seed = self._seed()
        self._check(recording.kills(self.sample, seed), store, f"kill, seed {seed!r}")

    def _seed(self) -> object:
        return os.urandom(4).hex() if self.seed is None else self.seed

    def record(self, folder: str) -> Recording:
        """Record the history of a new store in a directory."""
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        store = self.make_store_in(folder)
        code = f"{self.setup}\nfrom encore.testing.power_cut import _work; _work()"
        return record(
            [sys.executable, "-c", code],
            folder,
            stdin=pickle.dumps(store),
            env={**os.environ, "PYTHONPATH": path},
            timeout=self.patience,
        )

    def _recorded(self, levels: set[str]) -> tuple[Recording, Any]:
        reason = why_not()
        if reason is not None:
            self.skipTest(reason)
        folder = self._new_folder()
        store = self.make_store_in(folder)
        durable = store.info()["durable"]
        if durable not in levels:
            self.skipTest(f"info()['durable'] is {durable!r}")
        return self.record(folder), store

    def _new_folder(self) -> str:
        # Nothing of this need survive.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = tempfile.TemporaryDirectory(
            prefix="encore-", dir=memory, ignore_cleanup_errors=True
        )
        self.addCleanup(folder.cleanup)
        return folder.name

    def _check(self, cuts: Iterable[Cut], store: Any, how: str) -> None:
        states = _history.states_of(store)
        count = 0
        for cut in cuts:
            count += 1
            try:
                self.check_cut(cut, states)
            except Exception as error:
                raise AssertionError(f"{how}, {cut.what}: {error}") from error
        self.assertGreater(count, 0)

    def check_cut(self, cut: Cut, states: Sequence[list[Contents]]) -> None:
        """Check what is found after a cut."""
        ended = sum(line.startswith("end ") for line in cut.lines)
        begun = sum(line.startswith("begin ") for line in cut.lines)
        folder = self._new_folder()
        cut.build(folder)
        step = (
            f"after {ended} steps, in the midst of {cut.lines[-1][6:]!r}"
            if begun > ended
            else (f"after {ended} steps")
        )
        found = self._opened(folder)
        if found not in states[ended][: None if begun > ended else 1]:
            self.fail(f"{step}: {_difference(found, states[ended][0])}")
        # It goes on as if nothing had happened, and leaves nothing behind.
        found["after"] = b"after the cut", {"n": 1}
        after = self._opened(folder, write=True)
        self.assertEqual(after, found, f"{step}, after the next change")
        expected = self._leftovers_of(tuple(sorted(found)))
        self.assertEqual(self.leftovers(folder), expected, f"{step}: files are left over")

    def _opened(self, folder: str, write: bool = False) -> Contents:
        store = self.make_store_in(folder)
        store.connect()
        try:
            if not write:
                return _history.contents(store)
            store.set("after", _value(b"after the cut", {"n": 1}))
            # Not before: what was being done may have been left to the next writer.
            self.assertEqual(store.check(), [], "damage that check() finds")
            return _history.contents(store)
        finally:
            store.disconnect()

    def _leftovers_of(self, keys: tuple[str, ...]) -> int | None:
        """Return what leftovers() says of a store that has seen no cut."""
        known: dict[tuple[str, ...], int | None] = self.__dict__.setdefault("_known", {})
        if keys not in known:
            folder = self._new_folder()
            store = self.make_store_in(folder)
            store.connect()
            for key in keys:
                store.set(key, _value(b"", {}))
            store.disconnect()
            known[keys] = self.leftovers(folder)
        return known[keys]


def _value(data: bytes, metadata: dict[str, Any]) -> Any:
    import io

    return io.BytesIO(data), metadata


def _difference(found: Contents, expected: Contents) -> str:
    """Say what is not as it was acknowledged."""

    def shown(pair: tuple[bytes, dict[str, Any]] | None) -> str:
        return (
            "nothing" if pair is None else f"{len(pair[0])} bytes {pair[0][:20]!r} {pair[1]!r:.60}"
        )

    return "; ".join(
        f"{key[:20]!r} is {shown(found.get(key))}, acknowledged was {shown(expected.get(key))}"
        for key in sorted({*found, *expected})
        if found.get(key) != expected.get(key)
    )


def _work() -> None:
    """What the child process does."""
    _history.go_through(pickle.load(sys.stdin.buffer))
