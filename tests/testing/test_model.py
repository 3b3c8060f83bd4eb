"""The model-based test is itself tested: it finds what is broken, shortens it and prints it."""

from __future__ import annotations

import pytest

from encore.storage.dict_memory_store import DictMemoryStore
from encore.testing.model import (
    ModelMismatchError,
    as_python,
    check_store,
    expected_transcript,
    random_steps,
    same,
    shrink,
    transcript,
)


class ForgetsMetadata(DictMemoryStore):
    def update_metadata(self, key, metadata, **conditions):
        self.get(key)
        super().set_metadata(key, metadata, **conditions)


class LosesEvents(DictMemoryStore):
    def _tell(self, change):
        if change.key != "b":
            super()._tell(change)


class KeepsWhatWasRolledBack(DictMemoryStore):
    def _rollback_to(self, savepoint):
        pass


def maker(cls):
    return lambda event_manager: cls(event_manager=event_manager)


@pytest.mark.parametrize(
    ("cls", "most"), [(ForgetsMetadata, 3), (LosesEvents, 1), (KeepsWhatWasRolledBack, 5)]
)
def test_a_broken_store_is_found_and_the_sequence_shortened(cls, most):
    def check_many():
        for seed in range(10):
            check_store(maker(cls), seed, 100)

    with pytest.raises(ModelMismatchError) as caught:
        check_many()
    error = caught.value
    assert len(error.steps) <= most, str(error)
    assert "seed " in str(error)
    assert transcript(maker(cls), error.steps) != expected_transcript(error.steps)
    assert transcript(maker(DictMemoryStore), error.steps) == expected_transcript(error.steps)


def test_steps_follow_from_the_seed():
    assert random_steps(5, 50) == random_steps(5, 50)
    assert random_steps(5, 50) != random_steps(6, 50)
    plain = {step[0] for step in random_steps(1, 500, transactions=False)}
    assert not plain & {"begin", "commit", "rollback"}
    conditions = {
        step[-1] for step in random_steps(1, 500, conditions=False) if step[0] == "delete"
    }
    assert conditions == {None}


def test_shrink_keeps_what_fails():
    steps = [("step", number) for number in range(50)]
    wanted = {("step", 7), ("step", 31)}
    assert shrink(steps, lambda some: wanted <= set(some)) == [("step", 7), ("step", 31)]


def test_printed_lines_run():
    steps = random_steps(3, 200)
    used = {step[0] for step in steps}
    assert {"begin", "rollback", "multiset", "keys", "query"} <= used
    # A stream that fails cannot be written in a line, and is only told of.
    steps = [step for step in steps if step[0] != "set_failing"]
    printed, done = DictMemoryStore(), []

    def make(event_manager):
        done.append(DictMemoryStore(event_manager=event_manager))
        return done[0]

    outcomes = transcript(make, steps)
    names = {"store": printed, "print": lambda *words: None}
    exec(as_python(steps), names)
    while names["transactions"]:
        names["transactions"].pop().__exit__(None, None, None)
    assert sorted(printed.query()) == outcomes[-1].result
    assert {key: record[0] for key, record in printed._store.items()} == {
        key: record[0] for key, record in done[0]._store.items()
    }


def test_transcripts_are_the_same_only_with_their_types():
    assert same([("a", {"n": 1})], [("a", {"n": 1})])
    assert not same([("a", {"n": 1})], [("a", {"n": True})])
    assert not same([("a", {"n": [1]})], [("a", {"n": [1.0]})])
    assert not same([1], [1, 2])
