"""What fifty peers with a record a second each leave behind in a day: signed bundles of 64 records,
in the frames in which a server sends them, in a file.

Records are made by putting new values into three encoded ones, for the real way takes longer than
everything that is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from protocols.chain import Run
from protocols.cid import CID, RAW
from protocols.feed import Place, sign_bundle
from protocols.keys import SigningKey
from protocols.limits import BUNDLES_PER_FRAME_BYTES
from protocols.record import Record
from protocols.sync import BundleMessage, encode, pack
from tests.bench.merging import EXECUTION

FEEDS = 50
K = 64
EPOCH = 1
START_US = 1_790_000_000_000_000

_NONCE, _JOB_ID = b"\xa1nonce-\xa1", b"\xa2job-id-job-id-\xa2"
_INPUT, _OUTPUT, _SUBMITTED, _RUN = (bytes((number,)) * 32 for number in range(0xB0, 0xB4))
_START = START_US.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class Frame:
    """Where a frame lies, and the bundles of one feed that are in it, each of ``K`` records."""

    offset: int
    size: int
    feed: bytes
    first_sequence: int
    bundles: int


@dataclass
class Day:
    """The frames in the file at ``path``, and each feed's only run."""

    path: Path
    frames: list[Frame] = field(default_factory=list[Frame])
    runs: dict[bytes, Run] = field(default_factory=dict[bytes, Run])

    def write(self, bundles_each: int) -> None:
        """Make so many bundles of each feed."""
        with self.path.open("wb") as file:
            for number in range(FEEDS):
                key = SigningKey.from_seed((5_000 + number).to_bytes(32, "big"))
                for first, messages in self._frames_of(key, number, bundles_each):
                    payload = encode(messages)
                    at = file.tell()
                    file.write(payload)
                    frame = Frame(at, len(payload), key.public, first, len(messages))
                    self.frames.append(frame)

    def _frames_of(
        self, key: SigningKey, number: int, count: int
    ) -> Iterator[tuple[int, list[BundleMessage]]]:
        templates = _templates(key)
        gathered: list[BundleMessage] = []
        first = size = 0
        previous: CID | None = None
        for sequence in range(0, K * count, K):
            records = [_record(templates, number, at) for at in range(sequence, sequence + K)]
            bundle = sign_bundle(key, Place(EPOCH, sequence, previous), records, START_US)
            previous = bundle.cid
            encoded = bundle.encode()
            gathered.append(pack(encoded))
            size += len(encoded)
            if size >= BUNDLES_PER_FRAME_BYTES:
                yield first, gathered
                gathered, first, size = [], sequence + K, 0
        if gathered:
            yield first, gathered
        assert previous is not None
        self.runs[key.public] = Run(0, K * count, previous.digest)


def _templates(key: SigningKey) -> list[bytes]:
    """Return a submitted, a run and an accepted job, with marks where they differ from others."""
    block = CID.of(b"machine")
    inputs, outputs = CID.of_digest(_INPUT, RAW), CID.of_digest(_OUTPUT, RAW)
    common = {
        "author": key.public, "nonce": _NONCE, "environment": block, "hardware": block,
        "start_us": START_US,
    }  # fmt: skip
    job = {"job_id": _JOB_ID, "kind": "embed", "model": "all-minilm-l6-v2"}
    ran = {**EXECUTION, **job, "fence": 1, "items": 3, "submitter": key.peer_id}
    records = (
        Record(kind="job.submitted", generated=((inputs, "input"),), attributes=job, **common),
        Record(
            kind="job.run",
            used=((block, "model"), (inputs, "input")),
            generated=((outputs, "output"),),
            duration_us=41_000,
            attributes=ran,
            **common,
        ),
        Record(
            kind="job.accepted",
            used=((outputs, "output"),),
            informed_by=(CID.of_digest(_SUBMITTED), CID.of_digest(_RUN)),
            duration_us=43_000,
            attributes={"job_id": _JOB_ID, "fence": 1, "worker": key.peer_id},
            **common,
        ),
    )
    return [record.encode() for record in records]


def _record(templates: list[bytes], number: int, place: int) -> bytes:
    """Return the record at ``place`` of the feed of that number."""
    job_id = (number * 1_000_000 + place // 3).to_bytes(16, "big")
    encoded = templates[place % 3].replace(_NONCE, place.to_bytes(8, "big"))
    encoded = encoded.replace(_START, (START_US + place).to_bytes(8, "big"))
    encoded = encoded.replace(_JOB_ID, job_id)
    for mark in (_INPUT, _OUTPUT, _SUBMITTED, _RUN):
        if mark in encoded:
            encoded = encoded.replace(mark, sha256(mark + job_id).digest())
    return encoded
