"""The node's index: its store, following its journal."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from node.config import NodeConfig
from node.store import Store
from peer.home import Home
from peer.identity import Identity
from peer.index import Index
from peer.journal import Journal

MAX_LAG_BYTES: Final = 4 << 20
"""About 8,000 records, which whoever reads waits half a second for. Only people read this index, so
an idle node never loads the database, and a busy one writes thousands of rows at a time.
"""


def open_index(
    journal: Journal, home: Home, identity: Identity, config: NodeConfig
) -> Index[Store]:
    """Return the index of ``home``; nothing is opened before it runs."""

    def open_store(path: Path) -> Store:
        return Store.open(path, config.store.memory_mb, identity.key.public)

    return Index(journal, home.index, identity.key.public, open_store, lag_bytes_max=MAX_LAG_BYTES)
