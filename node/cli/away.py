"""What commands say when the node goes away while they wait for a kept job."""

from __future__ import annotations

from peer.cli import note


def tell_away() -> None:
    """Say that the job is not lost, and that this command goes on."""
    note("the node went away; it goes on with the job when it is started again: waiting for it")
