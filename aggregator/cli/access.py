"""How a reading command gets its answer: from the daemon, or from the state directory itself when
the daemon is down.

Both ways go through the same application, so the answers cannot differ but for what only a running
daemon knows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from peer.cli import note

if TYPE_CHECKING:
    from peer.home import Home

READ_WITHIN_S: Final = 120.0  # an index that comes back from afar is brought up to date first
HINT: Final = "start the aggregator with `covey-aggregator up`"


def home() -> Home:
    """The aggregator's state directory, as the environment names it; raises ``HomeError`` if a
    newer version has written there.
    """
    from peer.home import Home

    place = Home.of_aggregator(os.environ)
    place.check_version()
    return place


def _settled() -> Home:
    """The home, once its daemon answers or nobody owns it."""
    from peer.starting import wait_for_daemon

    place = home()
    wait_for_daemon(place)
    return place


def read(path: str, **query: Any) -> Any:
    """Return the JSON answer to a GET of ``path``."""
    return _ask("GET", path, query)


def act(path: str, body: Any = None, **query: Any) -> Any:
    """Return the JSON answer to a POST of ``body`` to ``path``."""
    return _ask("POST", path, query, body)


def download(form: str, out: BinaryIO, **query: Any) -> Any:
    """Write an export to ``out`` and return its summary."""
    from peer.control import ControlClient, DaemonDownError

    try:
        with ControlClient(_settled().control_socket, hint=HINT) as client:
            return client.download(f"/export/{form}", out, **query)
    except DaemonDownError:
        import trio

        from aggregator.offline import export_offline

        out.seek(0)
        out.truncate()
        summary = trio.run(export_offline, home(), form, query, out)
        _say_read_directly()
        return summary


def _ask(method: str, path: str, query: dict[str, Any], body: Any = None) -> Any:
    from peer.control import ControlClient, DaemonDownError

    try:
        # what changes something may wait for a tracker as long as that takes
        answer_s = READ_WITHIN_S if method == "GET" else None
        with ControlClient(_settled().control_socket, hint=HINT, answer_s=answer_s) as client:
            if method == "GET":
                return client.get(path, **query)
            return client.post(path, body, **query)
    except DaemonDownError:
        return _ask_the_directory(method, path, query, body)


def _ask_the_directory(method: str, path: str, query: dict[str, Any], body: Any) -> Any:
    import trio

    from aggregator.offline import answer_offline

    answer = trio.run(answer_offline, home(), method, path, query, body)
    _say_read_directly()
    return answer


def _say_read_directly() -> None:
    note(f"covey-aggregator: no daemon answers; {home().path} was read directly")
