"""Segments against a model: whatever is appended, rewritten and torn in whatever order, what was
durable is there and in its place.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peer import segment as segment_module
from peer.segments import Segments
from protocols.journal import FILLER, Damage, Entry, Scanned, encode_entry

SALT = bytes(range(16))
TAILS = st.one_of(
    st.just(b""), st.binary(min_size=1, max_size=90), st.integers(1, 90).map(lambda n: bytes(n))
)


class KilledError(Exception):
    """The process ends here."""


class SegmentsMachine(RuleBasedStateMachine):
    """``self.model`` is what must be there, by offset; none for what was erased."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="covey-segments-"))
        self.path = self.folder / "journal"
        self.model: dict[int, bytes | None] = {}
        self.segments = Segments.open(self.path, SALT)

    def teardown(self) -> None:
        if hasattr(self, "segments"):
            self.segments.close()
            shutil.rmtree(self.folder)

    @rule(bodies=st.lists(st.binary(max_size=80), min_size=1, max_size=5))
    def append(self, bodies: list[bytes]) -> None:
        entries = [encode_entry(SALT, Entry.SALT, body) for body in bodies]
        self.segments.append(b"".join(entries))
        offset = self.segments.end - sum(map(len, entries))
        for body, entry in zip(bodies, entries, strict=True):
            self.model[offset] = body
            offset += len(entry)

    @rule()
    def rotate(self) -> None:
        self.segments.rotate()

    @precondition(lambda self: self.sealed())
    @rule(choice=st.data())
    def rewrite(self, choice: Any) -> None:
        changes = self.changes(choice)
        self.segments.rewrite(changes)
        self.segments.replaced()
        self.model |= changes

    @precondition(lambda self: self.sealed())
    @rule(choice=st.data(), step=st.sampled_from(["write_all", "_put", "sync_folder"]))
    def crash_in_a_rewrite(self, choice: Any, step: str) -> None:
        changes = self.changes(choice)
        calls = choice.draw(st.integers(0, 3))
        with pytest.MonkeyPatch.context() as patch:
            # Nothing is tidied up behind a process that was killed.
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            patch.setattr(segment_module, step, killing(getattr(segment_module, step), calls))
            with suppress(KilledError):
                self.segments.rewrite(changes)
        self.reopen(b"")
        there = self.there()
        for start in set(map(self.start_of, changes)):  # each of them whole, the old or the new
            part = {at: body for at, body in changes.items() if self.start_of(at) == start}
            is_new = all(there.get(at) == body for at, body in part.items())
            is_old = all(there.get(at) == self.model[at] for at in part)
            assert is_new or is_old
            if is_new:
                self.model |= part

    @rule(tail=TAILS)
    def crash(self, tail: bytes) -> None:
        self.reopen(tail)

    @precondition(lambda self: not self.model or max(self.model) < self.segments.tail.start)
    @rule(size=st.integers(0, 79))
    def crash_while_a_segment_is_made(self, size: int) -> None:
        self.segments.close()
        tail = self.segments.tail.path
        tail.write_bytes(tail.read_bytes()[:size])
        self.segments = Segments.open(self.path, SALT)
        self.cut()

    @invariant()
    def everything_is_there_and_nothing_else(self) -> None:
        if not hasattr(self, "segments"):
            return
        kept = {offset: body for offset, body in self.model.items() if body is not None}
        assert self.there() == kept
        for offset, body in kept.items():
            assert self.segments.read(offset).body == body

    # How

    def there(self) -> dict[int, bytes]:
        found = list(self.segments.found(0, self.segments.end))
        assert not [part for part in found if isinstance(part, Damage)]
        whole = (part for part in found if isinstance(part, Scanned))
        return {part.offset: part.body for part in whole if part.kind != FILLER}

    def start_of(self, offset: int) -> int:
        starts = (int(path.stem) for path in self.path.glob("*.segment"))
        return max(start for start in starts if start <= offset)

    def sealed(self) -> list[int]:
        tail = self.segments.tail.start
        return [at for at, body in self.model.items() if at < tail and body is not None]

    def changes(self, choice: Any) -> dict[int, bytes | None]:
        chosen = choice.draw(st.lists(st.sampled_from(self.sealed()), min_size=1, unique=True))
        changes: dict[int, bytes | None] = {}
        for offset in chosen:
            body = self.model[offset] or b""
            length = choice.draw(st.none() | st.integers(0, len(body)))
            changes[offset] = None if length is None else body[:length]
        return changes

    def reopen(self, tail: bytes) -> None:
        self.segments.close()
        with self.segments.tail.path.open("ab") as file:
            file.write(tail)
        self.segments = Segments.open(self.path, SALT)
        assert list(self.path.glob("*.replacing")) == []
        self.cut()

    def cut(self) -> None:
        end = self.segments.tail.first
        for part in self.segments.found(0, self.segments.end):
            end = max(end, part.end_offset)
        self.segments.cut(end)


def killing(real: Any, after: int) -> Any:
    calls = iter(range(after))

    def kill(*args: Any) -> Any:
        if next(calls, None) is None:
            raise KilledError
        return real(*args)

    return kill


TestSegments = SegmentsMachine.TestCase
TestSegments.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
