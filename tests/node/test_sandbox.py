"""The sandbox of runners: what a process that is confined tries in vain, and what it still can."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from node.runner import sandbox
from node.runner.sandbox import BASIC, OFF, STRICT
from tests.support.escapes import ATTEMPTS, DONE, MODEL_FILES, Place, run

REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
REPOSITORY = Path(__file__).parents[2]

needs_strict = pytest.mark.skipif(bool(sandbox.lacking()), reason=sandbox.lacking())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A node's home with a key, a model and a control socket, and a process for its daemon."""
    home = tmp_path_factory.mktemp("home")
    model = home / "models" / "m"
    model.mkdir(parents=True)
    for file in (home / "identity.key", *(model / name for name in MODEL_FILES)):
        file.write_bytes(b"x" * 8)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as control,
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as daemon,
    ):
        udp.bind(("127.0.0.1", 0))
        control.bind(f"{home}/control.sock")
        control.listen(64)
        ports = tcp.getsockname()[1], udp.getsockname()[1]
        yield Place(OFF, str(home), str(model), *ports, daemon.pid)


@pytest.fixture(scope="module")
def confined(place: Place) -> dict[str, str | int]:
    return run(replace(place, level=STRICT))


@pytest.fixture(scope="module")
def free(place: Place) -> dict[str, str | int]:
    return run(place)


@needs_strict
@pytest.mark.parametrize("version", [1, 2])
def test_the_first_versions_of_landlock_leave_nothing_either(version: int, place: Place):
    outcomes = run(replace(place, level=STRICT, landlock=version))

    assert {name for name, outcome in outcomes.items() if outcome not in REFUSED} == set()


@needs_strict
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_strictly_confined_process_cannot(
    attempt: str, confined: dict[str, str | int], free: dict[str, str | int]
):
    assert confined[attempt] in REFUSED
    if free[attempt] != DONE:
        pytest.skip(f"this machine lets nobody do that: {free[attempt]}")


def python(code: str, *arguments: object) -> str:
    """Run code in a process of its own and return what it printed."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


LATE_THREAD = """
import sys, threading
from pathlib import Path
from node.runner.sandbox import SandboxError, confine
ready = threading.Event()
threading.Thread(target=ready.wait).start()
try:
    confine("strict", Path(sys.argv[1]))
except SandboxError as error:
    print(error.code, error)
ready.set()
"""


@needs_strict
def test_a_process_that_has_a_thread_already_is_not_confined_by_half(tmp_path: Path):
    assert python(LATE_THREAD, tmp_path).startswith("runner-sandbox a thread was there")


COMPUTE = """
import sys
from pathlib import Path
from node.runner.sandbox import confine
confine("strict", Path(sys.argv[1]))
import torch
torch.set_num_threads(2)
product = torch.ones(600, 600) @ torch.ones(600, 600)
states = {
    line
    for status in Path("/proc/self/task").glob("*/status")
    for line in status.read_text().splitlines()
    if line.startswith(("Seccomp:", "NoNewPrivs:"))
}
print(len(list(Path("/proc/self/task").iterdir())) > 1, float(product.sum()), sorted(states))
"""


@needs_strict
def test_torch_is_imported_and_computes_in_threads_that_are_all_confined(tmp_path: Path):
    said = python(COMPUTE, tmp_path)

    assert said == f"True {600.0**3} ['NoNewPrivs:\\t1', 'Seccomp:\\t2']"


LIMITS = """
import json, sys
from pathlib import Path
from node.runner.sandbox import confine
confine("basic", Path(sys.argv[1]))
said = {}
for name, attempt in {
    "write": lambda: Path(sys.argv[1], "x").write_text("x"),
    "allocate": lambda: bytearray(1 << 44),
    "read": lambda: Path("/etc/passwd").read_bytes(),
}.items():
    try:
        attempt()
        said[name] = "done"
    except Exception as error:
        said[name] = type(error).__name__
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("NoNewPrivs:"):
        said["no new privileges"] = line.split()[1]
for line in Path("/proc/self/limits").read_text().splitlines():
    if line.startswith("Max core file size"):
        said["core"] = line.split()[4:6]
print(json.dumps(said))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_basic_limits_memory_and_files_and_leaves_the_rest(tmp_path: Path):
    said = json.loads(python(LIMITS, tmp_path))

    assert said == {
        "write": "OSError",
        "allocate": "MemoryError",
        "read": "done",
        "no new privileges": "1",
        "core": ["0", "0"],
    }


WITHOUT = """
import sys
from pathlib import Path
from node.runner.sandbox import SandboxError, SandboxUnavailableError, choose, confine, kernel
from node.runner.sandbox.seccomp import ALLOW, EQUAL, FAIL, LOAD, RETURN, install
number = {"landlock": (444, 444), "seccomp": (317, 277)}[sys.argv[2]]
column = kernel.machine()
kernel.forbid_new_privileges()
is_it = [(LOAD, 0, 0, 0), (EQUAL, 0, 1, number[column])]
install(column, [*is_it, (RETURN, 0, 0, FAIL | 1), (RETURN, 0, 0, ALLOW)])
print(choose("auto"))
for attempt in (lambda: choose("strict"), lambda: confine("strict", Path(sys.argv[1]))):
    try:
        attempt()
    except (SandboxError, SandboxUnavailableError) as error:
        print(error.code, error.hint is not None)
"""


@needs_strict
@pytest.mark.parametrize("part", ["landlock", "seccomp"])
def test_where_the_kernel_refuses_a_part_auto_is_basic_and_strict_an_error(
    tmp_path: Path, part: str
):
    chosen, asked, tried = python(WITHOUT, tmp_path, part).splitlines()

    assert chosen.startswith("Sandbox(level='basic'")
    assert part in chosen
    assert asked == "sandbox-unavailable True"
    assert tried == "runner-sandbox True"


@pytest.mark.parametrize("level", [BASIC, OFF])
def test_a_lower_level_is_had_when_asked_for_and_says_why(level: str):
    chosen = sandbox.choose(level)

    assert chosen.level == level
    assert "configuration" in chosen.reason


@needs_strict
def test_without_a_wish_runners_are_confined_strictly():
    assert sandbox.choose(sandbox.AUTO) == sandbox.Sandbox(STRICT)
