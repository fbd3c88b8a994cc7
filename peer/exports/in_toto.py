"""in-toto: for each record that generated something, an attestation that it did. A line each: a
DSSE envelope, signed by whoever exports, around a Statement of SLSA provenance. Behind them, a
Statement of a type of our own for each record that was redacted.

The subject is the block that a CID names, so its ``sha256`` is the CID's digest: of the bytes
themselves where they are public, of salt and bytes for the inputs and outputs of jobs. The author's
own signature over the record's bundle goes along as a by-product.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from peer.excerpts import Erased, Excerpt
from peer.exports.prov_json import moment
from protocols.cid import CID
from protocols.excerpt import Part
from protocols.feed import HEADER_TYPE, SignedHeader
from protocols.keys import SigningKey, pae, peer_id_of
from protocols.prov import plain
from protocols.record import Link, Record

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
REDACTION_TYPE: Final = "urn:covey:redaction:v1"

Fields = dict[str, Any]


def write(excerpt: Excerpt, out: BinaryIO) -> None:
    """Write JSON lines, the form in which in-toto bundles attestations."""
    for part in excerpt.parts():
        for statement in statements(part):
            envelope = sign(statement, excerpt.signer)
            out.write(json.dumps(envelope).encode() + b"\n")
    for each in excerpt.redacted():
        envelope = sign(redaction_statement(each), excerpt.signer)
        out.write(json.dumps(envelope).encode() + b"\n")


def sign(statement: Fields, signer: SigningKey) -> Fields:
    """Return the DSSE envelope; its key id is the signer's peer id, which holds the public key."""
    payload = json.dumps(statement, ensure_ascii=False).encode()
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return {
        "payload": _base64(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": signer.peer_id, "sig": _base64(signature)}],
    }


def statements(part: Part) -> Iterator[Fields]:
    """Yield the Statement of each record of ``part`` that generated something."""
    for encoded in part.records:
        record = Record.decode_verified(encoded)
        if record.generated:
            yield {
                "_type": STATEMENT_TYPE,
                "subject": _descriptors(record.generated),
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "buildDefinition": _definition(record),
                    "runDetails": _details(record, CID.of(encoded), part),
                },
            }


def redaction_statement(erased: Erased) -> Fields:
    """Return the Statement that a record's content was erased: what it generated is not known any
    more.
    """
    redaction = erased.redaction
    at = moment(redaction.at_us)
    return {
        "_type": STATEMENT_TYPE,
        "subject": _descriptors([(erased.cid, "record")]),
        "predicateType": REDACTION_TYPE,
        "predicate": {
            "status": "redacted",
            "redactedBy": f"urn:covey:peer:{peer_id_of(redaction.by)}",
            **({"redactedOn": at} if at else {}),
            "reason": redaction.reason,
            "authority": redaction.authority,
            "tombstone": f"urn:covey:record:{redaction.tombstone}",
            "byproducts": list(map(_header, erased.proofs)),
        },
    }


def _definition(record: Record) -> Fields:
    blocks = ((record.environment, "environment"), (record.hardware, "hardware"))
    used = [*record.used, *((target, role) for target, role in blocks if target)]
    return {
        "buildType": f"urn:covey:record-kind:{quote(record.kind, safe='')}",
        "externalParameters": {"kind": record.kind},
        "internalParameters": {"status": record.status, "attributes": plain(record.attributes)},
        "resolvedDependencies": _descriptors(used),
    }


def _details(record: Record, cid: CID, part: Part) -> Fields:
    ends_us = record.start_us + record.duration_us
    times = {"startedOn": moment(record.start_us), "finishedOn": moment(ends_us)}
    known = {name: time for name, time in times.items() if record.start_us and time}
    return {
        "builder": {"id": f"urn:covey:peer:{peer_id_of(record.author)}"},
        "metadata": {"invocationId": f"urn:covey:record:{cid}", **known},
        "byproducts": [_header(part.proof)],
    }


def _header(proof: SignedHeader) -> Fields:
    """Describe a bundle's header with its author's signature."""
    return {
        "name": "bundle-header",
        "digest": {"sha256": proof.cid.digest.hex()},
        "mediaType": HEADER_TYPE,
        "content": _base64(proof.header_bytes),
        "annotations": {"keyid": peer_id_of(proof.header.feed), "sig": _base64(proof.signature)},
    }


def _descriptors(links: tuple[Link, ...] | list[Link]) -> list[Fields]:
    """Describe what links lead to; within one list a name stands for one thing."""
    names: dict[str, int] = {}
    described: list[Fields] = []
    for target, role in links:
        names[role] = names.get(role, 0) + 1
        name = role if names[role] == 1 else f"{role} {names[role]}"
        described.append(
            {"name": name, "uri": f"ipfs://{target}", "digest": {"sha256": target.digest.hex()}}
        )
    return described


def _base64(content: bytes) -> str:
    return b64encode(content).decode()
