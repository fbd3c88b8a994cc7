"""What arguments of commands may look like: mistakes that the command line alone shows end it with
status 2, before anything is read or asked for.
"""

from __future__ import annotations

from typing import Any, Final

import click

from peer.cli import Misuse, unless_misused

MAX_LISTED: Final = 10_000
MAX_TIMEOUT_S: Final = 86_400
LIMIT: Final = click.IntRange(1, MAX_LISTED)


class Seconds(click.ParamType[float]):
    """A time for a job: more than 0, and at most a day."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number; NaN is none."""
        seconds = click.FLOAT.convert(value, param, ctx)
        if not 0 < seconds <= MAX_TIMEOUT_S:
            self.fail(f"{value} is not more than 0 and at most {MAX_TIMEOUT_S} s", param, ctx)
        return seconds


class NewJobId(click.ParamType[str]):
    """An id that the user chooses."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the id in the form in which jobs are listed."""
        from node.job_ids import parse_job_id

        return unless_misused(lambda: parse_job_id(str(value)), ctx).hex()


class JobId(click.ParamType[str]):
    """The id of a job that there is, or enough of its beginning."""

    name = "id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it in the form in which jobs are listed."""
        from node.job_ids import check_beginning

        return unless_misused(lambda: check_beginning(str(value)), ctx)


class PeerName(click.ParamType[str]):
    """The id of a peer, known here or not."""

    name = "peer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it."""
        from node.peer_ids import parse_peer_id

        return unless_misused(lambda: parse_peer_id(str(value)), ctx)


class KindName(click.ParamType[str]):
    """What a job does."""

    name = "kind"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name of a kind that there is."""
        from node.runner.kinds import KINDS

        if value not in KINDS:
            kinds = ", ".join(sorted(KINDS))
            raise Misuse(f"there is no kind {str(value)[:64]!r}", hint=f"kinds: {kinds}", ctx=ctx)
        return value


job_id_argument: Final = click.argument("job_id", type=JobId(), metavar="JOB")
