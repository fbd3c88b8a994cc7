"""What a submitter notices of the workers of a job: whoever places the next job learns from it."""

from __future__ import annotations

from enum import Enum


class Sign(Enum):
    """One thing that became of an offer or of an attempt at one worker."""

    ACCEPTED = "its lease was accepted"
    DONE = "its result was accepted"
    FAULT = "it failed, or broke the protocol"
    LOST = "its session was lost"
    SILENT = "its lease ended in silence"
    UNANSWERED = "it did not answer an offer, or could not be reached"
    ENDED = "the attempt ended, and that says nothing about the worker"
