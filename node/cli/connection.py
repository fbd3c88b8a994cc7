"""How commands reach this machine's node."""

from __future__ import annotations

import os

from peer.control import ANSWER_S, ControlClient
from peer.home import Home
from peer.starting import wait_for_daemon


def home() -> Home:
    """The node's state directory, as the environment names it; raises ``HomeError`` if a newer
    version has written there.
    """
    place = Home.of_node(os.environ)
    place.check_version()
    return place


def connect(answer_s: float | None = ANSWER_S) -> ControlClient:
    """A client of the running daemon, which is waited for while it starts; its calls raise
    ``DaemonDownError`` when there is none. An answer is waited for so long, or for ever.
    """
    place = home()
    wait_for_daemon(place)
    hint = "start the node with `covey up`"
    return ControlClient(place.control_socket, hint=hint, answer_s=answer_s)
