"""check() as every store has it."""

import pytest

from encore.storage.api import DictMemoryStore, Finding, StoreError, StringValue, WrapperStore


class DamagedStore(DictMemoryStore):
    """Some keys cannot be read; one is gone when it is looked at; one is shorter than it says."""

    def get(self, key):
        if key.startswith("bad"):
            raise StoreError(f"{key} is damaged")
        if key == "gone":
            raise KeyError(key)
        value = super().get(key)
        if key == "short":
            value.size = 10
        return value


@pytest.fixture
def store():
    store = DamagedStore()
    for key in ("a", "bad1", "bad2", "gone", "short", "z"):
        store.from_bytes(key, b"data")
    return store


FOUND = [
    Finding("bad1", "bad1 is damaged"),
    Finding("bad2", "bad2 is damaged"),
    Finding("short", "4 bytes of data instead of 10"),
]


def test_check_reads_everything_and_goes_on(store):
    assert store.check() == FOUND


def test_check_of_a_wrapper_is_that_of_its_store(store):
    assert WrapperStore(store).check() == FOUND


def test_nothing_is_found_where_all_is_well():
    store = DictMemoryStore()
    store.set("key", StringValue(b"data", {"a": 1}))
    assert store.check() == []


def test_findings_can_be_read_and_compared():
    finding = Finding("k\n", "no data", "lost")
    assert str(finding) == "'k\\n': no data (lost)"
    assert repr(finding) == "Finding('k\\n', 'no data', 'lost')"
    assert str(Finding(None, "no table")) == "no table"
    assert finding == Finding("k\n", "no data", "lost") != Finding("k\n", "no data")
    assert len({finding, Finding("k\n", "no data", "lost")}) == 1
