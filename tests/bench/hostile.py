"""The process that ``tests.bench.codec`` has read hostile blocks: a JSON line for each.

Each block is read in a fork of this process, which has only loaded the codec. CPU time is the least
of some rounds; memory is what the first round adds to the resident set at its highest. cbor2 alone,
with its defaults, is ended after a second of CPU or at 1 GB.
"""

from __future__ import annotations

import json
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import cbor2

from protocols import dagcbor
from protocols.errors import RemoteProtocolError
from tests.support.blocks import Blocks
from tests.support.hostile_blocks import CASES

ROUNDS = 7
FLOODS = 100
LIMIT_S = 1
LIMIT_BYTES = 1 << 30


def main() -> None:
    for name, make in _cases():
        costs = [_cost(_strict(profile), make) for profile in (dagcbor.RECORD, dagcbor.GENERIC)]
        ours = {what: max(cost[what] for cost in costs) for what in ("ms", "mb")}
        print(json.dumps({"name": name, "ours": ours, "bare": _cost(_bare, make)}), flush=True)


def _cases() -> Iterator[tuple[str, Callable[[], bytes]]]:
    yield from CASES.items()
    blocks = Blocks()
    for number in range(FLOODS):
        yield f"flood {number}", lambda seed=f"flood:{number}": blocks.flood(random.Random(seed))


def _strict(profile: dagcbor.Profile) -> Callable[[bytes], str]:
    def read(data: bytes) -> str:
        try:
            dagcbor.decode(data, profile=profile)
        except RemoteProtocolError:
            return "refused"
        return "accepted"

    return read


def _bare(data: bytes) -> str:
    try:
        cbor2.loads(data)
    except Exception as error:  # noqa: BLE001 - whatever it says is its answer
        return type(error).__name__
    return "accepted"


def _cost(read: Callable[[bytes], str], make: Callable[[], bytes]) -> dict[str, Any]:
    """Return milliseconds, megabytes and the answer of a child that reads what ``make`` gives."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S))
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        os.write(sender, json.dumps(_measured(read, make())).encode())
        os._exit(0)
    os.close(sender)
    with open(receiver, "rb") as answers:
        answer = answers.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return json.loads(answer)
    return {"ms": LIMIT_S * 1e3, "mb": 0.0, "answer": f"ended by signal {status & 0x7F}"}


def _measured(read: Callable[[bytes], str], data: bytes) -> dict[str, Any]:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times_s: list[float] = []
    answer = read(data)
    after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(ROUNDS):
        before_s = time.thread_time()
        read(data)
        times_s.append(time.thread_time() - before_s)
    return {"ms": min(times_s) * 1e3, "mb": (after_kb - before_kb) / 1024, "answer": answer}


if __name__ == "__main__":
    main()
