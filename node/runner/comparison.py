"""How far two outputs are apart whose rows are JSON: the largest difference of two numbers in the
same place, if everything else is the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, cast

from node.runner.kinds import Difference


def compare_rows(rows: Iterable[Any], others: Iterable[Any], tolerance: float) -> Difference:
    """Return that difference over all rows, and the first row in which they part."""
    amount, told = 0.0, ""
    for index, (row, other) in enumerate(zip_longest(rows, others)):
        apart = _apart(row, other)
        if apart is None:
            return Difference(None, False, f"item {index} is not the same")
        if apart > tolerance and not told:
            told = f"they part at item {index}"
        amount = max(amount, apart)
    return Difference(amount, amount <= tolerance, told)


def _apart(one: Any, two: Any) -> float | None:
    """Return how far two values are apart; None where something else than numbers is not equal."""
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two)
    if type(one) is not type(two):
        return None
    if isinstance(one, dict):
        mine, theirs = cast("dict[str, Any]", one), cast("dict[str, Any]", two)
        # the order of keys is the order of scores, which may turn where two are nearly the same
        return _widest(mine.keys() == theirs.keys(), [(mine[k], theirs.get(k)) for k in mine])
    if isinstance(one, list):
        items, others = cast("list[Any]", one), cast("list[Any]", two)
        return _widest(len(items) == len(others), list(zip(items, others, strict=False)))
    return 0.0 if one == two else None


def _widest(is_alike: bool, pairs: list[tuple[Any, Any]]) -> float | None:
    apart = [_apart(one, two) for one, two in pairs] if is_alike else [None]
    numbers = [each for each in apart if each is not None]
    return max(numbers, default=0.0) if len(numbers) == len(apart) else None
