"""What a node remembers with, in the order in which the parts depend on each other."""

from __future__ import annotations

from dataclasses import dataclass

from node.config import NodeConfig
from node.index import open_index
from node.store import Store
from peer.dropped import reserved
from peer.effects import Effects
from peer.feeds import Feeds
from peer.home import Home
from peer.identity import Identity
from peer.index import Index
from peer.journal import Journal
from peer.recorder import Recorder
from peer.redactor import Redactor


@dataclass(frozen=True, slots=True)
class Memory:
    """A node's journal and what stands on it; nothing runs before its ``run``."""

    journal: Journal
    feeds: Feeds
    index: Index[Store]
    recorder: Recorder
    redactor: Redactor

    @classmethod
    def open(cls, home: Home, identity: Identity, config: NodeConfig, effects: Effects) -> Memory:
        """Open the state in ``home``, whose lock the caller holds; raises what ``Journal.open``
        does.
        """
        journal = Journal.open(home.journal)
        feeds = Feeds(journal, identity.key, effects, identity.member.mesh)
        index = open_index(journal, home, identity, config)
        recorder = Recorder(feeds, effects, dropped=reserved(home.dropped))
        return cls(journal, feeds, index, recorder, Redactor(journal, feeds, index, recorder))
