from __future__ import annotations

import io

import dag_cbor
import ipld_car
import multiformats
import pytest
from hypothesis import given, strategies as st

from protocols.car import CarReader, Section, encode_head, encode_section
from protocols.cid import CID, RAW
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_CAR_HEAD_BYTES, MAX_CAR_ROOTS
from tests.support.excerpts import a_job, car, car_of

ROOT = CID.of(b"root")


def read(file: bytes) -> tuple[tuple[CID, ...], list[Section]]:
    reader = CarReader(io.BytesIO(file).read)
    return reader.roots, list(reader.sections())


def is_read(file: bytes) -> bool:
    try:
        read(file)
    except RemoteProtocolError:
        return False
    return True


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=5), st.integers(1, 5))
def test_blocks_survive_the_round_trip(blocks: list[bytes], roots: int) -> None:
    found, sections = read(car([ROOT] * roots, *blocks))

    assert found == (ROOT,) * roots
    assert [section.block for section in sections] == blocks
    assert all(section.is_whole for section in sections)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_with_the_byte(data: bytes) -> None:
    if is_read(data):
        return

    with pytest.raises(RemoteProtocolError, match="byte ") as caught:
        read(data)
    assert caught.value.code == "bad-car"


def test_a_reader_from_outside_reads_the_same_blocks() -> None:
    """``ipld-car``, with the CIDs and the codec of ``multiformats`` and ``dag-cbor``."""
    job, parts = a_job()
    file = car_of(parts, job.output)
    roots, sections = read(file)

    their_roots, their_blocks = ipld_car.decode(file)

    assert [bytes(root) for root in their_roots] == list(roots)
    assert [(bytes(cid), bytes(block)) for cid, block in their_blocks] == [
        (section.cid, section.block) for section in sections
    ]
    for cid, block in their_blocks:
        assert multiformats.multihash.digest(bytes(block), "sha2-256") == cid.digest
        assert dag_cbor.encode(dag_cbor.decode(bytes(block))) == bytes(block)


def test_a_file_from_a_writer_from_outside_is_read() -> None:
    block = dag_cbor.encode({"a": 1})
    cid = multiformats.CID(
        "base32", 1, "dag-cbor", multiformats.multihash.digest(block, "sha2-256")
    )

    roots, sections = read(bytes(ipld_car.encode([cid], [(cid, block)])))

    assert roots == (CID.of(block),)
    assert [(each.cid, each.block, each.is_whole) for each in sections] == [
        (CID.of(block), block, True)
    ]


def test_a_block_that_is_not_what_its_cid_names_is_told() -> None:
    file = encode_head([ROOT]) + encode_section(CID.of(b"this"), b"that")

    _, (section,) = read(file)

    assert section == (len(encode_head([ROOT])), CID.of(b"this"), b"that", False)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (b"", "byte 0: the file is empty"),
        (b"\x80", "byte 0: the file ends within the length of a head"),
        (b"\x81\x00", "byte 0: the length of a head is not in its shortest form"),
        (b"\xff\xff\xff\xff\x0f", "byte 0: the length of a head is over the limit of 4096"),
        (b"\x81\x20", "byte 0: a head of 4097 bytes is over the limit of 4096"),
        (b"\x05abc", "byte 1: the file ends within a head of 5 bytes"),
        (b"\x01\xa0", "byte 0: the head is not that of a CAR file of version 1"),
        (b"\x01\xff", "byte 0: the head is not strict DAG-CBOR"),
        (bytes.fromhex("0aa16776657273696f6e02"), "byte 0: the head is not that of a CAR file"),
        (encode_head([]), "byte 0: the head does not name 1 to 64 roots"),
        (encode_head([ROOT] * (MAX_CAR_ROOTS + 1)), "byte 0: the head does not name 1 to 64 roots"),
        (car([ROOT]) + b"\x24" + ROOT, "byte 59: a section of 36 bytes holds no block"),
        (car([ROOT]) + b"\x30" + ROOT, "byte 60: the file ends within a section of 48 bytes"),
        (car([ROOT]) + encode_section(CID.of(b"x", RAW), b"x"), "byte 59: a block is not named"),
    ],
)
def test_what_is_no_car_file_of_ours_is_refused_in_one_line(file: bytes, told: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read(file)

    assert caught.value.message.startswith(told)


def test_a_length_is_bounded_before_anything_is_read() -> None:
    asked: list[int] = []

    def hostile(count: int) -> bytes:
        asked.append(count)
        return b"\xff" * count

    with pytest.raises(RemoteProtocolError):
        CarReader(hostile)

    assert max(asked) <= MAX_CAR_HEAD_BYTES
