"""Child processes that the bench asks for things, a JSON line each way, and what processes cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ENDS_WITHIN_S = 60.0


class Child:
    """``python -m module``, which prints one JSON line when it is ready and one for each that it is
    sent.
    """

    def __init__(
        self,
        module: str,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
        arguments: Sequence[str] = (),
        python: str = sys.executable,
    ):
        self._log = log.open("ab") if log else None
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.pid = self._process.pid
        self.ready = self._answer()

    def ask(self, **command: Any) -> Any:
        """Send a command and return its answer."""
        self.tell(**command)
        return self._answer()

    def tell(self, **command: Any) -> None:
        """Send a command; ``answer`` waits for what it says."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Return the next answer."""
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a child of the bench ended with {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """End the child by the end of its input; a killed one has ended already."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(ENDS_WITHIN_S)
        self._process.stdout.close()
        if self._log:
            self._log.close()


@contextmanager
def child(module: str, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run a child while the block runs."""
    started = Child(module, env)
    try:
        yield started
    finally:
        started.close()


def serve(answer: Any, ready: Any = None) -> None:
    """A child's main loop: answer every line of stdin until it ends."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)


def cpu_s(*pids: int) -> float:
    """Return the CPU time of these processes and their living descendants, in both modes."""
    return sum(_own_cpu_s(pid) for root in pids for pid in (root, *_descendants(root)))


def rss_mb(pid: int) -> float:
    """Return the resident memory of one process in megabytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no memory")


def _own_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _descendants(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").iterdir():
        for inner in (task / "children").read_text().split():
            yield int(inner)
            yield from _descendants(int(inner))
