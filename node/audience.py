"""Those who follow one job: each is told what is new, and who comes later everything so far."""

from __future__ import annotations

from node.job import Progress
from node.submitted_job import Listener
from protocols.session import Grown


class Audience:
    """Empty at first; ``listener`` is what the job is submitted with. Only one that ``streams``
    sees the output grow, for that keeps a copy of it.
    """

    def __init__(self, *, streams: bool) -> None:
        self.listener = Listener(self._tell, self._tell_grown if streams else None)
        self.progress: Progress | None = None
        """How far the job is, by its last word."""
        self._listeners: list[Listener] = []
        self._grown = bytearray()
        self._is_again = False

    def __bool__(self) -> bool:
        """Whether anybody is here."""
        return bool(self._listeners)

    def join(self, listener: Listener) -> None:
        """Follow the job from now on, and hear where it stands."""
        self._listeners.append(listener)
        if self.progress is not None:
            listener.on_progress(self.progress)
        if self._grown and listener.on_grown is not None:
            listener.on_grown(Grown(bytes(self._grown)))

    def leave(self, listener: Listener) -> None:
        """Follow it no more."""
        self._listeners.remove(listener)

    def pause(self) -> None:
        """The job is under way no more, and may be submitted again."""
        self.progress = None
        self._is_again = bool(self._grown)

    def _tell(self, progress: Progress) -> None:
        self.progress = progress
        for listener in self._listeners:
            listener.on_progress(progress)

    def _tell_grown(self, grown: Grown) -> None:
        if self._is_again:
            self._is_again, grown = False, Grown(grown.body, is_anew=True)
        if grown.is_anew:
            self._grown.clear()
        self._grown += grown.body
        for listener in self._listeners:
            if listener.on_grown is not None:
                listener.on_grown(grown)
