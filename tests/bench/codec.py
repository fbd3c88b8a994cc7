"""Figures ``record_…_us`` and ``hostile_block_…``: what reading, writing and signing a record
costs, and the dearest of hostile blocks, beside bare cbor2 that believes everything.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any

import cbor2

from protocols.feed import SignedHeader, sign_bundle
from protocols.record import Record, check
from tests.bench.figure import Figure, figure
from tests.bench.merging import _author
from tests.bench.processes import ROOT
from tests.support.home import Author

ROUNDS = 15
K = 64
BUNDLES = 5


def figures() -> Iterator[Figure]:
    """Measure the records of jobs, their signatures, and hostile blocks."""
    author = _author(1, K, BUNDLES)
    encoded = [record.encode() for record in author.records]
    fields = [cbor2.loads(each) for each in encoded]
    yield _beside("record_encode_us", Record.encode, author.records, cbor2.dumps, fields)
    yield _beside("record_decode_us", Record.decode, encoded, cbor2.loads, encoded)
    yield _beside("record_check_us", check, encoded, cbor2.loads, encoded)
    yield from _signatures(author, encoded)
    yield from _hostile()


def _beside(
    name: str,
    ours: Callable[[Any], Any],
    values: Sequence[Any],
    bare: Callable[[Any], Any],
    bare_values: Sequence[Any],
) -> Figure:
    return figure(
        name,
        "µs CPU",
        [_each_us(ours, values) for _ in range(ROUNDS)],
        n=ROUNDS * len(values),
        baseline=f"cbor2.{bare.__name__}, nothing checked",
        baseline_rounds=[_each_us(bare, bare_values) for _ in range(ROUNDS)],
    )


def _each_us(do: Callable[[Any], Any], values: Sequence[Any]) -> float:
    before = time.thread_time()
    for value in values:
        do(value)
    return (time.thread_time() - before) / len(values) * 1e6


def _signatures(author: Author, encoded: Sequence[bytes]) -> Iterator[Figure]:
    """Signature and hash for each of 64 records of a bundle, as an author and as a reader."""
    parts = [encoded[at : at + K] for at in range(0, len(encoded), K)]
    places = [(bundle.header, part) for bundle, part in zip(author.bundles, parts, strict=True)]

    def sign(at: tuple[Any, Sequence[bytes]]) -> None:
        sign_bundle(author.key, at[0], at[1], 0)

    def verify(bundle: Any) -> None:
        SignedHeader.check(bundle.header, bundle.header_bytes, bundle.signature)
        for record in bundle.records:
            sha256(record).digest()

    for name, do, values in (("sign", sign, places), ("verify", verify, author.bundles)):
        rounds = [_each_us(do, values) / K for _ in range(ROUNDS)]
        yield figure(f"record_{name}_us_k{K}", "µs CPU", rounds, n=ROUNDS * len(encoded))


def _hostile() -> Iterator[Figure]:
    command = [sys.executable, "-m", "tests.bench.hostile"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows: list[dict[str, Any]] = [json.loads(line) for line in told.splitlines()]
    for name, unit in (("ms", "ms CPU"), ("mb", "MB")):
        dearest = max(rows, key=lambda row: row["ours"][name])
        bare = max(rows, key=lambda row: row["bare"][name])
        print(f"dearest in {name}: {dearest['name']}; bare: {bare['name']}", file=sys.stderr)
        yield figure(
            f"hostile_block_{name}_max",
            unit,
            [dearest["ours"][name]],
            n=len(rows),
            baseline="cbor2.loads, nothing checked",
            baseline_rounds=[bare["bare"][name]],
        )
