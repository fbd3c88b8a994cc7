"""A node as ``covey up`` runs it, which besides does what the bench tells it on stdin.

Jobs are submitted as the control API does: what HTTP costs on the way from a command is not what
these figures are about.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import trio

from node.config import NodeConfig
from node.daemon import Node, started
from node.job import JobSpec
from node.runner.kinds import kind_named
from node.submit import NOBODY
from node.submitted_job import Listener
from peer import logs
from peer.config import load
from peer.effects import system_effects
from peer.home import Home
from protocols.errors import CoveyError
from protocols.session import Grown

TICK_S = 0.005
BUDGET_MS = 120_000
TEXT_CHARS = 250  # 256 bytes with its encoding
LARGE_TEXT_CHARS = 50_000  # under the kind's limit for one text


async def main() -> None:
    home = Home.of_node(os.environ)
    config = load(NodeConfig, home.config, os.environ).values
    logs.configure("warning")
    async with started(home, config, system_effects()) as node:
        print(json.dumps({"peer": node.identity.peer_id}), flush=True)
        actions = {
            "cpu": cpu,
            "jobs": jobs,
            "stall": stall,
            "texts": texts,
            "transfer": transfer,
            "try": try_one,
        }
        async for command in _commands():
            action = actions[command.pop("do")]
            print(json.dumps(await action(node, **command)), flush=True)


async def _commands() -> AsyncIterator[dict[str, Any]]:
    waiting = b""
    stdin = trio.lowlevel.FdStream(os.dup(0))
    async with stdin:
        async for received in stdin:
            *lines, waiting = (waiting + received).split(b"\n")
            for line in lines:
                yield json.loads(line)


def _spec(node: Node, kind: str, model: str, texts: list[str], **more: Any) -> JobSpec:
    content = kind_named(kind).encode_input(texts)
    job_id = node.effects.token(16)
    return JobSpec(job_id, kind, model, content, len(texts), BUDGET_MS, **more)


async def jobs(
    node: Node, kind: str, model: str, concurrency: int, precision: str = "auto", **inputs: Any
) -> dict[str, Any]:
    """Run a job for each of ``texts``, or for each new text within ``seconds``, so many at once;
    return how long each took, all together, and in how many attempts.
    """
    waiting = iter(inputs["texts"]) if "texts" in inputs else _new_texts(node, **inputs)
    latencies_s: list[float] = []
    attempts = 0

    async def client() -> None:
        nonlocal attempts
        for texts in waiting:
            spec = _spec(node, kind, model, texts, precision=precision)
            since = trio.current_time()
            result = await node.submissions.run(spec, NOBODY)
            latencies_s.append(trio.current_time() - since)
            attempts += result.attempts

    since = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(concurrency):
            nursery.start_soon(client)
    wall_s = trio.current_time() - since
    return {"wall_s": wall_s, "latencies_s": latencies_s, "attempts": attempts}


async def cpu(_node: Node) -> float:
    """Return the seconds of CPU that this process took so far, to the microsecond."""
    return time.process_time()


async def texts(node: Node, model: str, prompt: str, tokens: int, streams: bool) -> dict[str, Any]:
    """Have one text continued; return how many tokens it took, and in how many pieces it came."""
    pieces = 0

    def on_grown(_: Grown) -> None:
        nonlocal pieces
        pieces += 1

    content = kind_named("generate").encode_input([prompt], {"max_tokens": tokens})
    spec = JobSpec(node.effects.token(16), "generate", model, content, tokens, BUDGET_MS)
    listener = Listener(lambda _: None, on_grown if streams else None)
    result = await node.submissions.run(spec, listener)
    return {"tokens": result.execution["new_tokens"], "pieces": pieces}


async def transfer(
    node: Node, kind: str, model: str, size_bytes: int, count: int
) -> dict[str, Any]:
    """Run so many large jobs one after another, and small ones one after another beside them;
    return how long the large ones took, and each of the small.
    """
    letters = node.effects.token(LARGE_TEXT_CHARS // 2).hex()
    texts = [letters[at:] + letters[:at] for at in range(size_bytes // LARGE_TEXT_CHARS)]
    specs = [_spec(node, kind, model, texts) for _ in range(count)]
    latencies_s: list[float] = []

    async def small() -> None:
        for texts in _new_texts(node, float("inf")):
            since = trio.current_time()
            await node.submissions.run(_spec(node, kind, model, texts), NOBODY)
            latencies_s.append(trio.current_time() - since)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(small)
        since = trio.current_time()
        for spec in specs:
            await node.submissions.run(spec, NOBODY)
        wall_s = trio.current_time() - since
        nursery.cancel_scope.cancel()
    return {"wall_s": wall_s, "latencies_s": latencies_s}


def _new_texts(node: Node, seconds: float) -> Iterator[list[str]]:
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        yield [node.effects.token(TEXT_CHARS // 2).hex()]


async def try_one(
    node: Node, kind: str, model: str, every_s: float, peer: str | None = None
) -> dict[str, Any]:
    """Submit one job again and again until somebody does it, or that peer if one is named."""
    while True:
        spec = _spec(node, kind, model, ["one text"], peer=peer)
        try:
            result = await node.submissions.run(spec, NOBODY)
        except CoveyError:
            await trio.sleep(every_s)
        else:
            return {"worker": result.worker}


async def stall(node: Node, seconds: float) -> list[float]:
    """Return by how much the loop was late for each of its ticks, in seconds."""
    late_s: list[float] = []
    end = trio.current_time() + seconds
    while (due := trio.current_time() + TICK_S) < end:
        await trio.sleep_until(due)
        late_s.append(trio.current_time() - due)
    return late_s


if __name__ == "__main__":
    trio.run(main)
