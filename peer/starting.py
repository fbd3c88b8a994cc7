"""What a command does while the daemon of its home starts or stops: it owns the home and answers
nobody yet, or any more.
"""

from __future__ import annotations

import time
from typing import Final

from peer.control import is_listening
from peer.home import Home
from protocols.errors import CoveyError

START_WAIT_S: Final = 10.0  # a start takes 1 to 3 s; replaying a large journal takes longer
RETRY_S: Final = 0.1


class DaemonStartingError(CoveyError):
    """A process owns the home and does not answer commands."""

    default_code = "daemon-starting"


def wait_for_daemon(home: Home) -> None:
    """Return once commands are answered at ``home``, or once nobody owns it; raises
    ``DaemonStartingError`` after ``START_WAIT_S``.
    """
    ends = time.monotonic() + START_WAIT_S
    while not is_listening(home.control_socket) and home.is_locked():
        if time.monotonic() >= ends:
            raise DaemonStartingError(
                f"{home.path} is in use, and no daemon answers there yet",
                hint="it is starting or stopping, or another command reads there: try again in a"
                " moment; the daemon's log says what it does",
            )
        time.sleep(RETRY_S)
