"""What a job that took a runner over would try next, each attempt run for real:
``python -m tests.support.escapes PLACE`` confines itself as a runner does, makes every attempt, and
prints what became of it, as JSON.

An attempt returns when it succeeded. Unconfined, each runs in a process of its own, so that none
changes what the next one finds; confined there is no other process to be had.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from node.runner.sandbox import OFF, confine, landlock

DONE = "done"
MODEL_FILES = ("weights", "vocabulary", "config")
NUMBERS = {
    "x86_64": {
        "add_key": 248,
        "bpf": 321,
        "clone": 56,
        "execveat": 322,
        "io_uring_setup": 425,
        "mount": 165,
        "open_tree": 428,
        "perf_event_open": 298,
        "pidfd_open": 434,
        "process_vm_readv": 310,
        "ptrace": 101,
        "setns": 308,
        "unshare": 272,
        "userfaultfd": 323,
    },
    "aarch64": {
        "add_key": 217,
        "bpf": 280,
        "clone": 220,
        "execveat": 281,
        "io_uring_setup": 425,
        "mount": 40,
        "open_tree": 428,
        "perf_event_open": 241,
        "pidfd_open": 434,
        "process_vm_readv": 270,
        "ptrace": 117,
        "setns": 268,
        "unshare": 97,
        "userfaultfd": 282,
    },
}
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWNET = 0x4000_0000
PTRACE_SEIZE = 0x4206
PR_SET_PDEATHSIG = 1
AT_EMPTY_PATH = 0x1000
SIOCGIFCONF = 0x8912

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """Where an attempt finds its victims: a node's home, its model, its sockets, its daemon."""

    level: str
    home: str
    model: str
    tcp_port: int
    udp_port: int
    daemon: int
    landlock: int = 0
    """The version of landlock that the kernel shall seem to have; 0 for its own."""

    @property
    def key(self) -> str:
        return f"{self.home}/identity.key"


def _call(name: str, *arguments: int | bytes | None) -> int:
    number = NUMBERS[platform.machine()][name]
    typed = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = _libc.syscall(ctypes.c_long(number), *typed)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def _connect(family: int, address: object) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.connect(address)


def _read_in_a_thread(place: Place) -> None:
    failures: list[OSError] = []

    def read() -> None:
        try:
            _read(place.key)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def _listen(_place: Place) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()


def _send_datagram(place: Place) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", place.udp_port))


def _fork(_place: Place) -> None:
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _clone(flags: int) -> None:
    if (child := _call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)) == 0:
        os._exit(0)
    os.waitpid(child, 0)


def _exec(_place: Place) -> None:
    """Succeeds by becoming a program that ends well."""
    os.execv("/bin/sh", ["sh", "-c", "exit 0"])


def _exec_from_memory(_place: Place) -> None:
    program = os.memfd_create("program", 0)
    os.write(program, Path("/bin/true").read_bytes())
    argv = (ctypes.c_char_p * 2)(b"true", None)
    _call("execveat", program, b"", ctypes.addressof(argv), 0, AT_EMPTY_PATH)


def _run_a_program(_place: Place) -> None:
    subprocess.run(["/bin/true"], check=True)


def _read_memory_of_the_daemon(place: Place) -> None:
    with open(f"/proc/{place.daemon}/maps") as maps:
        start = int(maps.readline().split("-", 1)[0], 16)
    _copy_memory(place.daemon, start)


def _copy_memory(pid: int, address: int) -> None:
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(address, 8)
    _call("process_vm_readv", pid, ctypes.addressof(here), 1, ctypes.addressof(there), 1, 0)


def _read_memory_without_proc(place: Place) -> None:
    """Where a process's memory lies may be known; a fault tells that reading it is allowed."""
    try:
        _copy_memory(place.daemon, 4096)
    except OSError as error:
        if error.strerror != "Bad address":
            raise


def _signal_by_descriptor(place: Place) -> None:
    descriptor = _call("pidfd_open", place.daemon, 0)
    signal.pidfd_send_signal(descriptor, signal.SIGCONT)


def _become_owner_of_signals(place: Place) -> None:
    read, _ = os.pipe()
    fcntl.fcntl(read, fcntl.F_SETOWN, place.daemon)


def _outlive_the_daemon(_place: Place) -> None:
    if _libc.prctl(*map(ctypes.c_ulong, (PR_SET_PDEATHSIG, 0, 0, 0, 0))):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _set_up_io_uring(_place: Place) -> None:
    parameters = ctypes.create_string_buffer(120)
    _call("io_uring_setup", 1, ctypes.addressof(parameters))


def _load_a_kernel_program(_place: Place) -> None:
    attributes = ctypes.create_string_buffer(128)
    attributes[0:16] = bytes([1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0])  # a small map
    _call("bpf", 0, ctypes.addressof(attributes), 128)


def _watch_performance(_place: Place) -> None:
    attributes = ctypes.create_string_buffer(128)
    attributes[0:8] = bytes([1, 0, 0, 0, 128, 0, 0, 0])  # the software clock of this process
    _call("perf_event_open", ctypes.addressof(attributes), 0, -1, -1, 0)


def _list_interfaces(_place: Place) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCGIFCONF, bytes(16))


ATTEMPTS: dict[str, Callable[[Place], object]] = {
    "read the password file": lambda _: _read("/etc/passwd"),
    "read the node's key": lambda place: _read(place.key),
    "read the node's key in a thread started later": _read_in_a_thread,
    "read the key over the model's folder": lambda place: _read(
        f"{place.model}/../../identity.key"
    ),
    "read the key over the root of this process": lambda p: _read(f"/proc/self/root{p.key}"),
    "list the node's home": lambda place: os.listdir(place.home),
    "list the processes": lambda _: os.listdir("/proc"),
    "write in the node's home": lambda place: _open(f"{place.home}/x", os.O_CREAT | os.O_WRONLY),
    "write in the temporary folder": lambda _: _open("/tmp", os.O_TMPFILE | os.O_WRONLY),
    "write to the model": lambda place: _open(f"{place.model}/weights", os.O_WRONLY),
    "make a file beside the model's": lambda p: _open(f"{p.model}/x", os.O_CREAT | os.O_WRONLY),
    "cut the model": lambda place: os.truncate(f"{place.model}/weights", 0),
    "empty the model while it is opened to be read": lambda place: _open(
        f"{place.model}/weights", os.O_RDONLY | os.O_TRUNC
    ),
    "delete the model": lambda place: os.unlink(f"{place.model}/vocabulary"),
    "rename the model": lambda place: os.rename(f"{place.model}/config", f"{place.model}/x"),
    "change the model's mode": lambda place: os.chmod(f"{place.model}/weights", 0o644),
    "put a link beside the model's files": lambda p: os.symlink(p.key, f"{p.model}/link"),
    "connect to a port": lambda p: _connect(socket.AF_INET, ("127.0.0.1", p.tcp_port)),
    "connect to the control socket": lambda p: _connect(socket.AF_UNIX, f"{p.home}/control.sock"),
    "listen on a port": _listen,
    "send a datagram": _send_datagram,
    "list the network's interfaces": _list_interfaces,
    "make a pair of sockets": lambda _: socket.socketpair(),
    "fork": _fork,
    "clone into a new user namespace": lambda _: _clone(CLONE_NEWUSER),
    "enter a new user namespace": lambda _: _call("unshare", CLONE_NEWUSER),
    "enter a new network": lambda _: _call("unshare", CLONE_NEWUSER | CLONE_NEWNET),
    "become a shell": _exec,
    "run a program": _run_a_program,
    "run a program from memory": _exec_from_memory,
    "trace the daemon": lambda place: _call("ptrace", PTRACE_SEIZE, place.daemon, 0, 0),
    "read the daemon's memory": _read_memory_of_the_daemon,
    "read the daemon's memory without /proc": _read_memory_without_proc,
    "open the daemon's memory": lambda place: _open(f"/proc/{place.daemon}/mem", os.O_RDWR),
    "read the daemon's environment": lambda place: _read(f"/proc/{place.daemon}/environ"),
    "read the daemon's arguments": lambda place: _read(f"/proc/{place.daemon}/cmdline"),
    "signal the daemon": lambda place: os.kill(place.daemon, signal.SIGCONT),
    "signal the daemon by a descriptor": _signal_by_descriptor,
    "have the kernel signal the daemon": _become_owner_of_signals,
    "slow the daemon down": lambda p: os.setpriority(os.PRIO_PROCESS, p.daemon, 5),
    "move the daemon to a core": lambda p: os.sched_setaffinity(
        p.daemon, os.sched_getaffinity(p.daemon)
    ),
    "limit the daemon": lambda p: resource.prlimit(p.daemon, resource.RLIMIT_CORE, (0, 0)),
    "outlive the daemon": _outlive_the_daemon,
    "set up io_uring": _set_up_io_uring,
    "load a program into the kernel": _load_a_kernel_program,
    "handle page faults": lambda _: _call("userfaultfd", 1),
    "watch performance counters": _watch_performance,
    "add a key to the kernel": lambda _: _call("add_key", b"user", b"covey", b"x", 1, -2),
    "take a tree of mounts": lambda _: _call("open_tree", -100, b"/", 1),
}


def main() -> None:
    place = Place(**json.loads(sys.argv[1]))
    if place.landlock:
        landlock.version = lambda: place.landlock
    confine(place.level, Path(place.model))
    attempt_one = _apart if place.level == OFF else _outcome
    print(json.dumps({name: attempt_one(each, place) for name, each in ATTEMPTS.items()}))


def run(place: Place) -> dict[str, str | int]:
    """Make every attempt in a confined process; return what became of each: ``DONE``, an error
    number, or what else went wrong.
    """
    finished = subprocess.run(
        [sys.executable, "-P", "-m", "tests.support.escapes", json.dumps(asdict(place))],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=True,
    )
    return json.loads(finished.stdout)


def _outcome(attempt: Callable[[Place], object], place: Place) -> str | int:
    try:
        attempt(place)
    except OSError as error:
        return error.errno or repr(error)
    except Exception as error:  # noqa: BLE001 - whatever an attempt ends in is told
        return repr(error)
    return DONE


def _apart(attempt: Callable[[Place], object], place: Place) -> str | int:
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, json.dumps(_outcome(attempt, place)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    # one that became another program says nothing and ends well
    return json.loads(said) if said else DONE if status == 0 else f"status {status}"


if __name__ == "__main__":
    main()
