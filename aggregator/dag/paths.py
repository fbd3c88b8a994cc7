"""The ways by which one node came from another, the shortest first."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Final

from aggregator.dag.graph import View

MAX_AROUND: Final = 50_000  # nodes between which ways are looked for: a second
MAX_STEPS: Final = 200_000  # begun ways; between nodes with many ways there are ever more


@dataclass(frozen=True, slots=True)
class Ways:
    """Some of the ways from ``start`` up to an origin: nodes, both ends included."""

    paths: list[list[int]]
    is_cut: bool
    """Whether there may be more, because of a limit or the depth."""


def ways(view: View, start: int, origin: int, *, depth: int, limit: int) -> Ways:
    """Return the ways of at most ``depth`` links that pass no node twice, at most ``limit``."""
    above, is_cut = _above(view, start, depth)
    left = _links_left(above, origin)
    if start not in left:
        return Ways([], is_cut)
    paths: list[list[int]] = []
    order = count()  # ways of one length come in the order in which they were begun
    begun = [(left[start], next(order), [start])]
    steps = 0
    while begun:
        if len(paths) > limit or steps > MAX_STEPS:
            return Ways(paths[:limit], True)
        _, _, path = heappop(begun)
        if path[-1] == origin:
            paths.append(path)
            continue
        for node in above[path[-1]]:
            length = len(path) + left.get(node, depth)
            if node in left and length <= depth and node not in path:
                heappush(begun, (length, next(order), [*path, node]))
            steps += 1
    return Ways(paths[:limit], is_cut or len(paths) > limit)


def _above(view: View, start: int, depth: int) -> tuple[dict[int, list[int]], bool]:
    """Return each node of the way up with what it came from, and whether there were too many."""
    above: dict[int, list[int]] = {}
    waiting = deque([(start, 0)])
    seen = {start}
    is_cut = False
    while waiting:
        node, links = waiting.popleft()
        if len(seen) > MAX_AROUND:
            return above, True
        parents = view.up(node)
        if links >= depth:
            is_cut = is_cut or bool(parents)
            parents = []
        above[node] = parents
        for parent in parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append((parent, links + 1))
    return above, is_cut


def _links_left(above: dict[int, list[int]], origin: int) -> dict[int, int]:
    """Return how many links each node is from the origin, if it came from it at all."""
    below: dict[int, list[int]] = {}
    for node, parents in above.items():
        for parent in parents:
            below.setdefault(parent, []).append(node)
    left = {origin: 0}
    waiting = deque([origin])
    while waiting:
        node = waiting.popleft()
        for child in below.get(node, ()):
            if child not in left:
                left[child] = left[node] + 1
                waiting.append(child)
    return left
