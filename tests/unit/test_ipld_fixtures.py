"""The public fixtures of ``ipld/codec-fixtures``: see ``tests/data/ipld-codec-fixtures``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocols import dagcbor
from protocols.cid import CID, AnyCID
from protocols.errors import RemoteProtocolError

ROOT = Path(__file__).parents[1] / "data" / "ipld-codec-fixtures"
POSITIVE = sorted((ROOT / "fixtures").glob("*/*.dag-cbor"))
NEGATIVE: list[dict[str, Any]] = [
    case
    for path in sorted((ROOT / "negative-fixtures" / "dag-cbor" / "decode").glob("*.json"))
    for case in json.loads(path.read_text())
]


def test_the_fixtures_are_complete() -> None:
    assert len(POSITIVE) == 128
    assert len(NEGATIVE) == 1


@pytest.mark.parametrize("path", POSITIVE, ids=lambda path: path.parent.name)
def test_a_public_fixture_round_trips_under_its_cid(path: Path) -> None:
    block = path.read_bytes()

    value = dagcbor.decode(block, profile=dagcbor.GENERIC)

    assert dagcbor.encode(value, profile=dagcbor.GENERIC) == block
    assert str(CID.of(block)) == path.stem


@pytest.mark.parametrize("case", NEGATIVE, ids=lambda case: case["name"])
def test_a_public_negative_fixture_is_refused(case: dict[str, Any]) -> None:
    for profile in (dagcbor.GENERIC, dagcbor.RECORD):
        with pytest.raises(RemoteProtocolError):
            dagcbor.decode(bytes.fromhex(case["hex"]), profile=profile)


NAMED = [path for path in POSITIVE if path.parent.name.startswith(("cid-Qm", "cid-baf", "cid-bag"))]


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.parent.name)
def test_a_link_reads_as_its_fixture_names_it(path: Path) -> None:
    link = dagcbor.decode(path.read_bytes(), profile=dagcbor.GENERIC)

    assert isinstance(link, AnyCID)
    assert f"cid-{link}" == path.parent.name
