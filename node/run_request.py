"""What a job asks of a runner, and how far it is while it waits for one, or is inside."""

from __future__ import annotations

from dataclasses import dataclass

from node.runner_child import Key
from node.runner_job import OnPiece, OnProgress


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One job for a runner: which installed model, in which precision, on what. ``units`` is only
    for estimates: tokens to write, or else items; ``submitter`` is whose turn it takes.
    """

    model: str
    kind: str
    precision: str
    input: bytes
    units: int = 1
    submitter: str = ""


@dataclass(slots=True, eq=False)
class ActiveRun:
    """A request that is not answered yet."""

    key: Key
    request: RunRequest
    on_progress: OnProgress
    on_piece: OnPiece
    foreseen_s: float = 0.0
    share_done: float = 0.0
    emitted_bytes: int = 0

    def follow(self, done: int, total: int) -> None:
        """Tell how far the job is."""
        self.share_done = done / total
        self.on_progress(done, total)

    def passing_on(self) -> OnPiece:
        """Return what a run is to be followed with: one that begins again repeats what was emitted
        before.
        """
        came_bytes = 0

        def pass_on(piece: bytes) -> None:
            nonlocal came_bytes
            new = piece[max(0, self.emitted_bytes - came_bytes) :]
            came_bytes += len(piece)
            if new:
                self.emitted_bytes = came_bytes
                self.on_piece(new)

        return pass_on
