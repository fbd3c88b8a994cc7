"""Where rows start: ascending numbers of 32 bits, in half of their memory.

Every 256th is kept whole, of the others only how far they are above it. The few stretches in which
that takes more than 16 bits (a hub with tens of thousands of neighbours is in them) are kept whole.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Starts = NDArray[np.uint32]

SHIFT: Final = 8
STRETCH: Final = 1 << SHIFT
WITHIN: Final = STRETCH - 1
MOST: Final = (1 << 16) - 1


class Offsets:
    """Ascending numbers below 2^32, by place; they never change."""

    def __init__(self, values: Starts) -> None:
        self._count = len(values)
        bases = values[::STRETCH].copy()
        last = np.append(np.arange(WITHIN, len(values) - 1, STRETCH), len(values) - 1)
        wide = np.flatnonzero(values[last[: len(bases)]] - bases > MOST)
        self._above = np.empty(len(values), np.uint16)
        for first in range(0, len(values), _AT_ONCE):  # the whole in 32 bits is what there is not
            part = values[first : first + _AT_ONCE]
            at = np.arange(first, first + len(part)) >> SHIFT
            self._above[first : first + len(part)] = (part - bases[at]).astype(np.uint16)
        self._wide = {
            int(each): values[int(each) << SHIFT : (int(each) + 1) << SHIFT].copy() for each in wide
        }
        self._is_wide = np.zeros(len(bases), np.bool_)
        self._is_wide[wide] = True
        self._bases = bases
        self._one_base: Any = bases.data  # ten times faster than an array for single items
        self._one_above: Any = self._above.data

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        arrays = (self._bases, self._above, self._is_wide, *self._wide.values())
        return sum(array.nbytes for array in arrays)

    def __getitem__(self, place: int) -> int:
        stretch = place >> SHIFT
        if stretch in self._wide:
            return int(self._wide[stretch][place & WITHIN])
        return self._one_base[stretch] + self._one_above[place]

    def at(self, places: NDArray[Any]) -> NDArray[np.int64]:
        """Return the numbers at these places."""
        stretches = places >> SHIFT
        found = self._bases[stretches].astype(np.int64) + self._above[places]
        if self._wide:
            for each in np.flatnonzero(self._is_wide[stretches]).tolist():
                found[each] = self[int(places[each])]
        return found

    def every(self) -> Starts:
        """Return all of them as an array."""
        values = np.repeat(self._bases, STRETCH)[: self._count]
        values += self._above
        for stretch, whole in self._wide.items():
            values[stretch << SHIFT : (stretch << SHIFT) + len(whole)] = whole
        return values


_AT_ONCE: Final = 1 << 20  # a multiple of the stretch
