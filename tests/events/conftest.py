import pytest

from encore.events.api import EventManager


@pytest.fixture
def manager():
    return EventManager()


@pytest.fixture
def calls():
    """A list to be filled by listeners."""
    return []
