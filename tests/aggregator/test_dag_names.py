from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aggregator.dag import names as names_module
from aggregator.dag.names import NameIndex, Names, as_rows, keys_of, merged_index


def made(count: int, seed: int) -> np.ndarray:
    return as_rows(b"".join(b"\x01\x55\x12\x20" + digest(seed, n) for n in range(count)))


def digest(seed: int, number: int) -> bytes:
    return np.random.default_rng((seed, number)).bytes(32)


def test_numbers_stay_when_indexes_merge_into_finer_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names_module, "MANY", 150)
    names = Names(tmp_path)
    first, second = made(100, 1), made(90, 2)
    one_ids, one = names.number(first, [])
    other_ids, other = names.number(np.concatenate([second, first[:5]]), [one])

    both = merged_index(one, other)

    assert (one.bits, both.bits) == (names_module.FEW_BITS, names_module.MANY_BITS)
    assert (both.keys() == np.sort(np.concatenate([one.keys(), other.keys()]))).all()
    assert one_ids.tolist() == list(range(100))
    assert other_ids.tolist() == [*range(100, 190), *range(5)]
    for number, cid in enumerate([*first, *second]):
        assert names.find(cid.tobytes(), [both]) == number
    again, fresh = names.number(np.concatenate([first, second]), [both])
    assert again.tolist() == list(range(190))
    assert len(fresh.ids) == 0


def test_a_cid_that_collides_with_another_is_told_apart(tmp_path: Path) -> None:
    names = Names(tmp_path)
    alike = [as_rows(b"\x01\x55\x12\x20" + b"\x07" * 31 + bytes([n]))[0] for n in range(200)]
    known, unknown = np.stack(alike[:100]), alike[100:]

    _, index = names.number(known, [])
    again, _ = names.number(np.stack(alike), [index])

    assert len(set(keys_of(np.stack(alike)).tolist())) == 1
    assert again.tolist() == list(range(200))
    assert [names.find(each.tobytes(), [index]) for each in known] == list(range(100))
    assert {names.find(each.tobytes(), [index]) for each in unknown} == {None}


def test_the_file_of_names_has_no_name(tmp_path: Path) -> None:
    names = Names(tmp_path)
    names.number(made(3, 1), [])

    assert list(tmp_path.iterdir()) == []
    assert names.read(np.arange(3, dtype=np.int32)).tolist() == made(3, 1).tolist()


def test_an_empty_index_finds_nothing(tmp_path: Path) -> None:
    index = NameIndex.build(np.empty(0, np.uint64), np.empty(0, np.int32))

    assert Names(tmp_path).find(made(1, 1).tobytes(), [index]) is None
