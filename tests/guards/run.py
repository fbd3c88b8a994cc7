"""Shows that every guard is needed: its test passes with the guard and fails without it. This is
``make guards``.

First all guard tests run as they are. Then each guard is taken away in turn, in a process of its
own, and its test must fail. Prints a table and exits 0 only if every test passed with its guard and
failed without.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
LIMIT_S: Final = 60  # each test has time limits of its own, well below
_REASON_CHARS: Final = 80
_ERROR: Final = re.compile(r"[\w.]*(Error|Failed|Cancelled|Exception)(:|$)|assert ")
_FAILED: Final = 1  # pytest: tests ran and some failed; anything else is no proof

CONNECTIONS: Final = "tests/guards/test_identity_and_connections.py::"
STREAMS: Final = "tests/guards/test_streams.py::"

TESTS: Final = {
    "forged peer id": CONNECTIONS + "test_nobody_can_claim_the_id_of_another_peer",
    "handler exception": STREAMS + "test_an_exception_in_a_handler_ends_its_stream_only",
    "40 cancelled bulk writes": STREAMS
    + "test_forty_cancelled_bulk_writes_leave_the_connection_whole",
    "write cancelled in mid-frame": STREAMS
    + "test_a_write_cancelled_in_mid_frame_puts_the_whole_frame_on_the_wire_or_none",
    "dead first address": CONNECTIONS + "test_a_dead_first_address_does_not_hide_the_second",
    "frozen peer": CONNECTIONS + "test_a_frozen_peer_is_noticed_within_five_seconds",
    "hostile sender": STREAMS
    + "test_a_sender_that_ignores_the_window_is_cut_off_before_it_fills_our_memory",
    "20 start/stop cycles": CONNECTIONS
    + "test_twenty_starts_and_stops_leak_no_socket_and_no_thread",
    "garbage on /meshsub/1.1.0": STREAMS + "test_garbage_on_meshsub_ends_that_stream_only",
    "validator that raises": STREAMS + "test_a_validator_that_raises_refuses_its_message_only",
    "gossip before hello": CONNECTIONS
    + "test_gossip_neither_comes_from_nor_goes_to_a_peer_before_its_hello",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of one test went."""

    word: str
    reason: str = ""


def run_pytest(*arguments: str, without: str | None = None) -> tuple[int | None, str]:
    """Run tests in a process of its own, with one guard taken away or none; return status and
    output.
    """
    environment = dict(os.environ)
    if without is not None:
        environment["COVEY_TEST_WITHOUT_GUARD"] = without
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, done.stdout + done.stderr


def with_guards() -> dict[str, Outcome]:
    """Run every test as it is."""
    _, output = run_pytest("-rA", *TESTS.values())
    passed = {line.split()[1] for line in output.splitlines() if line.startswith("PASSED ")}
    return {
        guard: Outcome("passes" if test in passed else "fails") for guard, test in TESTS.items()
    }


def without_guard(guard: str) -> Outcome:
    """Run a guard's test without it."""
    status, output = run_pytest(TESTS[guard], without=guard)
    if status is None:
        return Outcome("hangs", f"no outcome in {LIMIT_S} s")
    if status == _FAILED:
        return Outcome("fails", first_reason(output))
    return Outcome("passes" if status == 0 else "breaks", f"pytest exited {status}")


def first_reason(output: str) -> str:
    """Return the first error that pytest shows, but not the groups that it travelled in."""
    lines = (line.lstrip(" |E+-") for line in output.splitlines())
    errors = [line for line in lines if _ERROR.match(line) and "ExceptionGroup" not in line]
    return errors[0][:_REASON_CHARS] if errors else "failed"


def main() -> int:
    """Print the table; return the exit status."""
    started = time.monotonic()
    kept = with_guards()
    width = max(map(len, TESTS))
    say(f"{'guard':{width}} | with   | without | how it fails without")
    say(f"{'-' * width}-|--------|---------|---------------------")
    is_proven = True
    for guard in TESTS:
        removed = without_guard(guard)
        is_proven &= kept[guard].word == "passes" and removed.word == "fails"
        say(f"{guard:{width}} | {kept[guard].word:6} | {removed.word:7} | {removed.reason}")
    verdict = "each holds and is needed" if is_proven else "NOT PROVEN for every one of them"
    say(f"{len(TESTS)} guards in {time.monotonic() - started:.0f} s: {verdict}")
    return 0 if is_proven else 1


def say(line: str) -> None:
    """Print now: the whole takes a minute or two."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
