"""Answers a command when the daemon is down: opens the state directory and asks the same API."""

from __future__ import annotations

from typing import Any, BinaryIO

import httpx

from aggregator.api import Api
from aggregator.core import opened
from aggregator.metrics import Metrics
from aggregator.surroundings import Surroundings
from peer.control import answer_of
from peer.effects import system_effects
from peer.home import Home
from peer.identity import Identity


async def answer_offline(
    home: Home, method: str, path: str, query: dict[str, Any], body: Any = None
) -> Any:
    """Return the JSON answer to one request, made to an application that serves nobody else.

    Takes the directory's lock, so no daemon can start meanwhile; records nothing.
    """
    identity = Identity.load(home.path)
    async with home.locked(), opened(home, identity, system_effects()) as answers:
        app = Api(answers, Metrics(), Surroundings).control()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://covey") as client:
            response = await client.request(method, path, params=query, json=body)
    return answer_of(response)  # out here: a nursery would wrap the error in a group


async def export_offline(home: Home, form: str, query: dict[str, Any], out: BinaryIO) -> Any:
    """Write an export straight to ``out`` and return its summary; as ``answer_offline`` does."""
    identity = Identity.load(home.path)
    async with home.locked(), opened(home, identity, system_effects()) as answers:
        return await answers.export(form, query.get("lineage"), query.get("since", ""), out)
