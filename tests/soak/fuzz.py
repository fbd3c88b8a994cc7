"""Hostile and damaged blocks for the codec, for SECONDS (60), each made from SEED and its number.

Of every input it demands that both profiles, ``Record.decode`` and ``check`` answer as a reader
does that was written from the specification alone: refuse it with ``RemoteProtocolError``, or give
the same value and, encoded again, the same bytes. ``make soak`` runs it; when an input is answered
wrongly, the command that is printed tries that input alone.
"""

from __future__ import annotations

import faulthandler
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from protocols import dagcbor
from protocols.cid import AnyCID
from protocols.errors import RemoteProtocolError
from protocols.record import Record, check
from tests.soak.replay import again, replayable, variables
from tests.support.blocks import Blocks
from tests.support.plain_dagcbor import FaultError, read

REFUSED = object()


@dataclass
class Tally:
    """What the inputs were and what became of them."""

    answers: Counter[str] = field(default_factory=Counter)
    dearest_s: float = 0.0
    dearest: int = 0

    def add(self, number: int, answer: str, data: bytes) -> None:
        self.answers[answer] += 1
        if _cost_s(data) > self.dearest_s:
            cost_s = min(_cost_s(data) for _ in range(5))  # without what only happened meanwhile
            if cost_s > self.dearest_s:
                self.dearest_s, self.dearest = cost_s, number


def input_of(seed: int, number: int, blocks: Blocks) -> bytes:
    """Return one input; it depends on nothing but ``seed`` and ``number``."""
    return blocks.any(random.Random(f"{seed}:{number}"))


def tried(data: bytes) -> str:
    """Say what became of ``data``; raise ``AssertionError`` if that is wrong."""
    answers = [_tried(data, profile) for profile in (dagcbor.RECORD, dagcbor.GENERIC)]
    if _is_record(data, answers[0]):
        return "records"
    ours, foreign = (answer is not REFUSED for answer in answers)
    return "blocks" if ours else "foreign blocks" if foreign else "refused"


def _tried(data: bytes, profile: dagcbor.Profile) -> Any:
    expected = _expected(data, profile)
    try:
        value = dagcbor.decode(data, profile=profile)
    except RemoteProtocolError:
        value = REFUSED
    assert (value is REFUSED) == (expected is REFUSED), "accepted or refused wrongly"
    if value is REFUSED:
        return REFUSED
    assert _exact(value) == _exact(expected), "another value"
    assert dagcbor.encode(value, profile=profile) == data, "another encoding"
    return value


def _expected(data: bytes, profile: dagcbor.Profile) -> Any:
    try:
        return read(data, is_record=profile is dagcbor.RECORD)
    except FaultError:
        return REFUSED


def _is_record(data: bytes, value: Any) -> bool:
    expected = record = None
    with suppress(msgspec.ValidationError):
        if value is not REFUSED:
            expected = msgspec.convert(value, Record, builtin_types=(bytes,))
    with suppress(RemoteProtocolError):
        record = Record.decode(data)
    assert record == expected, "another record"
    author = None
    with suppress(RemoteProtocolError):
        author = check(data)
    assert author == (record and record.author), "another author"
    return record is not None


def _exact(value: Any) -> Any:
    """Return ``value`` so that only equal types, orders and bits are equal."""
    match value:
        case dict():
            return "map", [(key, _exact(each)) for key, each in value.items()]
        case list():
            return "list", [_exact(each) for each in value]
        case float():
            return "float", struct.pack(">d", value)
        case AnyCID():
            return type(value).__name__, bytes(value)
        case _:
            return type(value).__name__, value


def _cost_s(data: bytes) -> float:
    """Return the CPU time of one refusal or acceptance."""
    before = time.thread_time()
    with suppress(RemoteProtocolError):
        dagcbor.decode(data, profile=dagcbor.GENERIC)
    return time.thread_time() - before


def _numbers(seconds: float) -> Iterator[int]:
    end = time.monotonic() + seconds
    for number in count():
        if number % 64 == 0 and time.monotonic() > end:
            return
        yield number


def main() -> None:
    values = variables(SEED=0, SECONDS=60)
    at = os.environ.get("AT")
    faulthandler.enable()  # a crash of the process comes again with the same seed
    with replayable("fuzz", values):
        tally = fuzzed(values["SEED"], _numbers(values["SECONDS"]) if at is None else [int(at)])
    told = ", ".join(f"{number:,} {what}" for what, number in sorted(tally.answers.items()))
    print(f"{tally.answers.total():,} inputs: {told}")
    print(f"dearest: {tally.dearest_s * 1e3:.2f} ms CPU, SEED={values['SEED']} AT={tally.dearest}")


def fuzzed(seed: int, numbers: Iterable[int]) -> Tally:
    """Try these inputs of ``seed``; say of one that is answered wrongly how to try it alone."""
    blocks, tally = Blocks(), Tally()
    for number in numbers:
        data = input_of(seed, number, blocks)
        try:
            answer = tried(data)
        except BaseException:
            print(f"input {number}, {len(data)} bytes: {data[:200].hex()}")
            print(f"this one alone: {again('fuzz', {'SEED': seed, 'AT': number})}", flush=True)
            raise
        tally.add(number, answer, data)
    return tally


if __name__ == "__main__":
    main()
