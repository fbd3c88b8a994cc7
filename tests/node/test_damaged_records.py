"""What a node says of records that its disk has damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.errors import UnknownError
from protocols.feed import Bundle
from protocols.report import RECORD_KIND
from tests.support.holding import held
from tests.support.reports import a_report
from tests.support.retaining import AGGREGATOR, acknowledge
from tests.support.rot import flip


async def test_a_record_whose_bytes_rotted_is_listed_and_shown_as_damaged(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        rotten, sound = await node.write("rotten"), await node.write("sound")
        await acknowledge(node.feeds, 2)
        flip(node.path, b"rotten")
        listed = {row["cid"]: row for row in await node.read("/records")}
        shown = await node.read("/records/{cid}", cid=rotten)
        whole = await node.read("/records/{cid}", cid=sound)

    assert {cid: row["status"] for cid, row in listed.items()} == {rotten: "damaged", sound: "ok"}
    for damaged in (listed[rotten], shown):
        assert damaged["damaged"] == {"fetch_from": [AGGREGATOR.peer_id]}
    assert (whole["status"], whole["damaged"]) == ("ok", None)
    assert node.feeds.quarantined == 1


async def test_nobody_is_named_for_a_damaged_record_that_nobody_acknowledged(
    tmp_path: Path,
) -> None:
    async with held(tmp_path) as node:
        cid = await node.write("rotten")
        flip(node.path, b"rotten")

        shown = await node.read("/records/{cid}", cid=cid)

    assert shown["damaged"] == {"fetch_from": []}


async def test_an_error_report_whose_bytes_rotted_is_listed_as_damaged(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        for marker in ("rotten", "sound"):
            await node.write(marker, RECORD_KIND, **a_report().to_attributes())
        other = await node.write("no report")
        flip(node.path, b"rotten")

        listed = await node.read("/errors")
        shown = await node.read("/errors/{cid}", cid=listed[1]["cid"])
        with pytest.raises(UnknownError, match="it is of kind tick"):
            await node.read("/errors/{cid}", cid=other)

    assert [row["damaged"] for row in listed] == [None, {"fetch_from": []}]
    assert (shown["status"], shown["damaged"]) == ("damaged", {"fetch_from": []})
    assert shown["attributes"]["exception.type"] == listed[1]["type"]


async def test_a_record_that_no_index_remembers_may_be_in_what_is_damaged(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        cid = await node.write("rotten")
        await node.write("sound")
    flip(node.path, b"rotten")
    async with held(tmp_path) as node:
        await node.index.rebuild()
        with pytest.raises(UnknownError) as unknown:
            await node.read("/records/{cid}", cid=cid)

    assert "covey records check" in (unknown.value.hint or "")


async def test_a_record_that_came_back_is_listed_once_and_is_sound(tmp_path: Path) -> None:
    async with held(tmp_path) as node:
        cid = await node.write("rotten")
        [link] = next(iter(node.feeds.chains.values()))
        whole = node.feeds.read(link)
        assert whole is not None
        flip(node.path, b"rotten")
        await node.read("/records")
        await node.feeds.add(Bundle.decode(whole))
        await node.index.catch_up()
        listed = await node.read("/records")
        shown = await node.read("/records/{cid}", cid=cid)

    assert [(row["cid"], row["damaged"]) for row in listed] == [(cid, None)]
    assert shown["damaged"] is None
