"""``python -m node.runner PARENT``: a process that holds one model for the daemon whose process id
is PARENT.

It confines itself between the daemon's first message and everything else: before its second thread,
which would stay free, before it loads a library that starts some, and before it reads a byte of the
model or of a job.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from node.runner import sandbox
from node.runner.channel import Channel
from node.runner.messages import LOAD_JOB, Failed
from node.runner.service import Service

NICENESS = 10  # the daemon's loop, and the person at the machine, go first
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve the daemon until it is gone."""
    channel = Channel.private()
    die_with_parent(int(sys.argv[1]))
    os.nice(NICENESS)
    # a core file would hold what others sent to be computed
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    load = channel.first()
    try:
        sandbox.confine(load.sandbox, Path(load.folder), load.memory_bytes)
    except sandbox.SandboxError as error:
        channel.send([Failed(LOAD_JOB, error.code, error.message)])
        return
    channel.start()
    Service(channel).run(load)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the daemon ends, where it can; elsewhere the end of
    stdin must do.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it ended before we could ask


if __name__ == "__main__":
    main()
