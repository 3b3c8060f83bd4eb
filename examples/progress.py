"""Progress of work of your own and of a store, shown on standard error.

Usage: python examples/progress.py
"""

from __future__ import annotations

import hashlib
import io

from encore.events.api import ProgressManager, get_event_manager
from encore.storage.api import DictMemoryStore
from encore.terminal.api import ProgressDisplay


def main() -> None:
    # The display listens to the event manager of the process, which both kinds of work below use.
    manager = get_event_manager()
    display = ProgressDisplay(manager)

    digest = hashlib.sha256()
    with ProgressManager(manager, message="Hashing", steps=200) as progress:
        for step in range(200):
            digest.update(bytes(50_000))
            progress(step=step + 1)

    store = DictMemoryStore()
    store.set("zeros", (io.BytesIO(bytes(20_000_000)), {"sha256": digest.hexdigest()}), 2**18)

    print(store.get("zeros").size, "bytes stored;", len(display.writers), "operations running")


if __name__ == "__main__":
    main()
