"""The conformance kit on a store made of two others; mixed in before the kit of those."""

from __future__ import annotations

from encore.events.event_manager import EventManager
from encore.storage.dict_memory_store import DictMemoryStore


class TwoLayers:
    """The kit of a store on two of them."""

    kills = 1

    def combine(self, first, lower, event_manager=None):
        """Return the store made of two."""
        raise NotImplementedError

    def members(self, store):
        """Return the two."""
        return store.stores

    def make_store(self, event_manager):
        # They tell their own changes, with themselves as source.
        lower = super().make_store(EventManager())
        self.lower_folder = getattr(self, "folder", None)
        return self.combine(super().make_store(EventManager()), lower, event_manager)

    def make_handle(self, store):
        members = self.members(store)
        first = super().make_handle(members[0])
        if first is None:
            return None
        folder, self.folder = self.folder, self.lower_folder
        lower = super().make_handle(members[1])
        self.folder = folder
        return self.combine(first, lower)

    def make_relative_store(self, event_manager):
        first = super().make_relative_store(EventManager())
        lower = DictMemoryStore(event_manager=EventManager())
        return None if first is None else self.combine(first, lower, event_manager)

    def failing_commit(self, store):
        return super().failing_commit(self.members(store)[0])

    def damage(self, store, key):
        return super().damage(self.members(store)[0], key)
