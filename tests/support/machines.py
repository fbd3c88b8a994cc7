"""Machines of a test mesh: each a state directory and the installed commands, run as real processes
on loopback.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.offering import MEASURED_FILE
from tests.support.measured import measured_hardware

BIN = Path(sys.executable).parent
KEEP_RUNNING = Path(__file__).parents[2] / "deploy/keep-running.sh"
START_BUDGET_S = 60.0
POLL_S = 0.1


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class CommandFailedError(AssertionError):
    """A command ended with another status than the caller expected."""


@dataclass
class Machine:
    """One node or aggregator: its home, its port, its environment, and its daemon while it runs."""

    name: str
    home: Path
    command: str = "covey"
    options: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    daemon: subprocess.Popen[bytes] | None = None
    is_kept_running: bool = False
    """Whether a supervisor starts the daemon again whenever it ends; it stands for ``daemon``."""

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with this machine's home, port and options."""
        variable = "COVEY_HOME" if self.command == "covey" else "COVEY_AGGREGATOR_HOME"
        kept = {k: v for k, v in os.environ.items() if not k.startswith("COVEY_")}
        return kept | {
            variable: str(self.home),
            "COVEY_LISTEN_PORT": str(self.port),
            "COVEY_DISCOVERY_MDNS": "false",
            **self.options,
        }

    def run(
        self, *arguments: str, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one command here and check its exit status."""
        done = self.run_any(*arguments, stdin=stdin)
        if done.returncode != status:
            line = " ".join(arguments)
            raise CommandFailedError(
                f"{self.name}: {self.command} {line} ended with {done.returncode}, not {status}\n"
                f"{done.stdout}{done.stderr}\n{self.log_tail()}"
            )
        return done

    def run_any(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one command here, however it ends."""
        return subprocess.run(
            [BIN / self.command, *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Begin one command here, whose output nobody wants; the caller waits for its end."""
        return subprocess.Popen(
            [BIN / self.command, *arguments],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def json(self, *arguments: str, stdin: str = "") -> Any:
        """Run one command with ``--json`` and return what it printed."""
        return json.loads(self.run(*arguments, "--json", stdin=stdin).stdout)

    @property
    def log(self) -> Path:
        """Where the daemon's stderr goes."""
        return self.home.with_suffix(".log")

    def log_tail(self) -> str:
        """The last lines of the daemon's log."""
        return "\n".join(self.log.read_text().splitlines()[-15:]) if self.log.exists() else ""

    def up(self) -> None:
        """Start the daemon and return when it answers."""
        self._take_measurement()
        supervisor = [KEEP_RUNNING] if self.is_kept_running else []
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [*supervisor, BIN / self.command, "up"],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        self.until(lambda: self.answers(), "answer")

    def _take_measurement(self) -> None:
        """Spare a node's first start the measuring, where tests share one measurement."""
        file = self.home / MEASURED_FILE
        if self.command == "covey" and not file.exists() and (content := measured_hardware()):
            file.write_bytes(content)

    def answers(self) -> bool:
        """Tell whether the daemon serves its control socket."""
        if self.daemon is not None and self.daemon.poll() is not None:
            raise CommandFailedError(f"{self.name}: the daemon ended\n{self.log_tail()}")
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.home / "control.sock")) == 0

    def kill(self) -> None:
        """Kill the daemon as a crash would; a supervisor starts it again."""
        assert self.daemon is not None
        pid = self.daemon.pid
        if self.is_kept_running:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            daemons = [int(each) for each in children if b"up" in _arguments(each)]
            for daemon in daemons:
                os.kill(daemon, signal.SIGKILL)
            return
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    def down(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Stop the daemon and return its exit status."""
        assert self.daemon is not None
        self.daemon.send_signal(sign)
        status = self.daemon.wait(timeout=45)
        self.daemon = None
        return status

    def until(self, condition: Any, what: str, budget_s: float = START_BUDGET_S) -> Any:
        """Poll ``condition`` until it is true and return its value; say ``what`` did not come
        about.
        """
        deadline = time.monotonic() + budget_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(POLL_S)
        raise CommandFailedError(
            f"{self.name} did not {what} in {budget_s:.0f} s\n{self.log_tail()}"
        )


def _arguments(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


@contextmanager
def stopping(*machines: Machine) -> Iterator[None]:
    """Stop whatever still runs when the block ends."""
    try:
        yield
    finally:
        for machine in reversed(machines):
            if machine.daemon is not None and machine.daemon.poll() is None:
                machine.down()
