"""Whether the upstream is there, and with which models: asked every half minute, sooner when a job
has doubts, and with growing pauses while it does not answer or a model is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from node.upstream.embedding import probe
from node.upstream.errors import DOUBTS
from node.upstream.models import EMBED, UpstreamModel, Wanted, choose, decode_listing
from node.upstream.patience import Patience
from peer.journal import JournalFullError
from protocols.errors import JobFailed
from protocols.keys import PeerId
from protocols.limits import (
    MAX_UPSTREAM_LIST_BYTES,
    UPSTREAM_LIST_S,
    UPSTREAM_POLL_S,
    UPSTREAM_RETRY_S_MAX,
    UPSTREAM_RETRY_S_MIN,
)

if TYPE_CHECKING:
    from node.upstream.client import UpstreamClient

log = logging.getLogger(__name__)

PATH: Final = "models"
QUICK: Final = Patience(UPSTREAM_LIST_S, UPSTREAM_LIST_S)

Changed = Callable[[], Awaitable[None]]


class Watch:
    """Looks after one upstream. ``models`` are those that it has now, by the names that jobs use;
    none while it is down.
    """

    def __init__(self, wanted: Wanted, peer: PeerId, patience: Patience) -> None:
        self.models: dict[str, UpstreamModel] = {}
        self.is_up = False
        self.reason: str | None = "it was not asked yet"
        """Why it is not up."""
        self.left_out: dict[str, str] = {}
        """Models that are not offered, and why."""
        self._wanted = wanted
        self._peer = peer
        self._patience = patience
        self._dimensions: dict[str, int] = {}
        self._told: set[tuple[str, bytes, int]] = set()
        self._doubted = trio.Event()

    def doubt(self) -> None:
        """A job was not answered: look soon."""
        self._doubted.set()

    async def run(self, client: UpstreamClient, changed: Changed) -> None:
        """Look until cancelled; ``changed`` is called after ``models`` has become another."""
        pause_s = UPSTREAM_RETRY_S_MIN
        while True:
            self._doubted = trio.Event()
            await self._look(client)
            await self._tell(changed)
            longest_s = UPSTREAM_POLL_S if self.is_up else UPSTREAM_RETRY_S_MAX
            if self.is_up and not self.left_out:
                pause_s = UPSTREAM_RETRY_S_MIN
                await self._rest(longest_s)
            else:  # it may just be starting, and what is missing come soon
                await self._rest(min(pause_s, longest_s))
                pause_s = min(2 * pause_s, UPSTREAM_RETRY_S_MAX)

    async def _tell(self, changed: Changed) -> None:
        """Say that ``models`` has become another, again and again while the disk is full."""
        if (identity := _identity(self.models)) == self._told:
            return
        try:
            await changed()
        except JournalFullError as error:
            log.warning("upstream's models not recorded yet", extra={"reason": error.message})
        else:
            self._told = identity

    async def _rest(self, longest_s: float) -> None:
        """Wait until the next look is due, or there is doubt; but never look all the time."""
        await trio.sleep(UPSTREAM_RETRY_S_MIN)
        with trio.move_on_after(longest_s - UPSTREAM_RETRY_S_MIN):
            await self._doubted.wait()

    async def _look(self, client: UpstreamClient) -> None:
        try:
            async with client.ask(PATH, QUICK) as answer:
                listed = decode_listing(await answer.whole(MAX_UPSTREAM_LIST_BYTES))
            models, left_out = choose(listed, self._wanted, self._peer)
            self._found(await self._measured(client, models, left_out), left_out)
        except JobFailed as failed:
            self._lost(failed)

    async def _measured(
        self, client: UpstreamClient, models: list[UpstreamModel], left_out: dict[str, str]
    ) -> dict[str, UpstreamModel]:
        """Return the models by name, those that embed with their dimension, which a short text
        shows once: one that cannot embed it is left out.
        """
        found: dict[str, UpstreamModel] = {}
        for model in models:
            try:
                if model.kind == EMBED and model.id not in self._dimensions:
                    self._dimensions[model.id] = await probe(client, model, self._patience)
            except JobFailed as failed:
                if failed.code in DOUBTS:
                    raise
                left_out[model.name] = failed.message
            else:
                dimension = self._dimensions[model.id] if model.kind == EMBED else 0
                found[model.name] = replace(model, dimension=dimension)
        return found

    def _found(self, models: dict[str, UpstreamModel], left_out: dict[str, str]) -> None:
        if not self.is_up:
            log.info("upstream up", extra={"models": len(models)})
        for name in left_out.keys() - self.left_out.keys():
            extra = {"model": name, "reason": left_out[name]}
            log.warning("upstream's model not offered", extra=extra)
        self.models, self.left_out = models, left_out
        self.is_up, self.reason = True, None

    def _lost(self, failed: JobFailed) -> None:
        if self.is_up or self.reason != failed.message:
            log.warning("upstream down", extra={"reason": failed.message})
        self.models, self.left_out = {}, {}
        self.is_up, self.reason = False, failed.message
        self._dimensions.clear()  # what comes back may be another


def _identity(models: dict[str, UpstreamModel]) -> set[tuple[str, bytes, int]]:
    """What others are told of them: not when the upstream says that it made them, for that is often
    when it was asked.
    """
    return {(model.name, bytes(model.cid), model.dimension) for model in models.values()}
