"""What a node remembers with, in the order in which the parts depend on each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from node.accepted import AcceptedJobs
from node.config import NodeConfig
from node.index import open_index
from node.retention import needed_by, retention_of
from node.salts import Salts
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
from peer.service import running
from peer.showing import Showing


@dataclass(frozen=True, slots=True)
class Memory:
    """A node's journal and what stands on it; works while it is ``running``."""

    identity: Identity
    journal: Journal
    feeds: Feeds
    index: Index[Store]
    recorder: Recorder
    redactor: Redactor
    salts: Salts
    accepted: AcceptedJobs

    @classmethod
    def open(cls, home: Home, identity: Identity, config: NodeConfig, effects: Effects) -> Memory:
        """Open the state in ``home``, whose lock the caller holds; raises what ``Journal.open``
        does.
        """
        journal = Journal.open(home.journal)
        feeds = Feeds(journal, identity.key, effects, identity.member.mesh)
        index = open_index(journal, home, identity, config)
        recorder = Recorder(feeds, effects, dropped=reserved(home.dropped))
        redactor = Redactor(journal, feeds, index, recorder)
        salts, accepted = Salts(journal, effects), AcceptedJobs(journal)
        return cls(identity, journal, feeds, index, recorder, redactor, salts, accepted)

    @asynccontextmanager
    async def running(self, config: NodeConfig) -> AsyncGenerator[None]:
        """Write, follow and let go of what is recorded while the block runs."""
        needed = needed_by(self.salts, self.accepted)
        retention = retention_of(self.journal, self.feeds, self.index, config.records, needed)
        async with (
            running(self.journal.run),  # outermost: the others still write while they stop
            running(self.feeds.run, self.index.run, self.recorder.run, self.redactor.run),
            running(Showing(self.recorder, self.identity).run, retention.run),
        ):
            yield
