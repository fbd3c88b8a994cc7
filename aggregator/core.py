"""What an aggregator is without a network: identity, journal, feeds, index and intake, in the order
in which they depend on each other.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing

from aggregator.ancestry import Ancestry
from aggregator.answers import Answers
from aggregator.checkpoints import Checkpoints
from aggregator.intake import Intake
from aggregator.losses import Losses
from aggregator.store import Store
from peer.effects import Effects
from peer.feeds import Feeds
from peer.home import Home
from peer.identity import Identity
from peer.index import Index
from peer.journal import Journal
from peer.recorder import Recorder
from peer.redactor import Redactor
from peer.service import running


@asynccontextmanager
async def opened(home: Home, identity: Identity, effects: Effects) -> AsyncGenerator[Answers]:
    """Open the state in ``home``, whose lock the caller holds; the index has caught up on entry.

    On the way out everything is flushed: the index stops first, the journal last.
    """
    with closing(Journal.open(home.journal)) as journal:
        feeds = Feeds(journal, identity.key, effects, identity.member.mesh)
        index = Index(journal, home.index, identity.key.public, Store.open)
        async with running(journal.run), running(index.run):
            intake = Intake(index, identity.member.mesh)
            await intake.take_in()
            recorder = Recorder(feeds, effects)
            yield Answers(
                identity,
                journal,
                feeds,
                index,
                intake,
                Ancestry(index, home.path),
                Redactor(journal, feeds, index, recorder, on_erased=intake.start_over),
                Checkpoints(feeds, index, recorder),
                Losses(feeds, index, intake, recorder),
            )
