"""An aggregator asks for records that others name and that have not arrived."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trio.testing import MockClock

from aggregator.seeking import Seeking
from aggregator.store import Store
from peer.index import Index
from protocols.limits import MAX_SOUGHT, SEEK_RETRY_S_MIN
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, Peer, meet
from tests.support.feeds import bundles_of, chain_of, effects, key


def seeking_at(aggregator: Peer, folder: Path) -> Seeking:
    index = Index(aggregator.journal, folder / "index", aggregator.key.public, Store.open)
    return Seeking(index, aggregator.exchange, effects())


async def test_what_is_missing_is_asked_for_by_name_and_kept(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    bundles = chain_of(key(7), 3)
    shy = replace(OPEN, may_pull=lambda _: False)
    async with Meeting(tmp_path).peers(node=shy, aggregator=FOLLOWING) as (node, aggregator):
        await node.feeds.add_all(bundles)
        await meet(node, aggregator)
        seeking = seeking_at(aggregator, tmp_path)

        await seeking.seek([bundles[1].header.digests[0]])

        assert bundles_of(aggregator.feeds) == [bundles[1]]
        status = seeking.status()
        assert (status["dangling"], status["tries"], status["found"]) == (0, 1, 1)


async def test_what_nobody_has_is_asked_for_again_only_after_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        seeking, told = seeking_at(aggregator, tmp_path), list[dict[str, Any]]()
        for _ in range(3):
            await seeking.seek([bytes(32)])
            told.append(seeking.status())
        autojump_clock.jump(SEEK_RETRY_S_MIN)
        await seeking.seek([bytes(32)])

    assert [each["tries"] for each in told] == [1, 1, 1]
    assert seeking.status()["tries"] == 2
    assert seeking.status()["dangling"] == 1


async def test_a_question_is_bounded_however_much_is_missing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (node, aggregator):
        await meet(node, aggregator)
        seeking = seeking_at(aggregator, tmp_path)

        await seeking.seek([number.to_bytes(32, "big") for number in range(10 * MAX_SOUGHT)])

        assert seeking.status()["tries"] == MAX_SOUGHT


async def test_what_came_by_itself_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with Meeting(tmp_path).peers(node=OPEN, aggregator=FOLLOWING) as (_node, aggregator):
        seeking = seeking_at(aggregator, tmp_path)
        await seeking.seek([bytes(32)])
        await seeking.seek([])

        assert seeking.status()["dangling"] == 0
