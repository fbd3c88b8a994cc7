"""Every mistake that a person or a machine can make, against the installed commands: one line that
says what to do, the right status, and nothing lost. ``docs/operations.md`` has a sentence for each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from protocols.cid import CID
from protocols.ticket import SECRET_BYTES, Ticket
from tests.e2e.demo import MODEL
from tests.support.machines import BIN, Machine, stopping
from tests.support.models import flip_byte

pytestmark = pytest.mark.e2e

DOCS = Path(__file__).parents[2] / "docs/operations.md"
SENTENCE = "A man is eating food.\n"
NOWHERE = str(CID.of(b"nowhere"))
RUN = ("run", "embed", "--model", MODEL)
STRANGER = "12D3KooWSxpeJpcAebtV9emdNM7bUNATFhTx2JirESHYLkxhVvHC"


@dataclass
class World:
    """One mesh that all cases share, a state directory that none runs in, and tickets."""

    root: Path
    submitter: Machine
    worker: Machine
    aggregator: Machine
    idle: Machine
    tickets: dict[str, str] = field(default_factory=dict)
    second: subprocess.Popen[str] | None = None
    """A second daemon in the submitter's directory: it waits ten seconds for the first one."""

    def machine(self, name: str, command: str = "covey") -> Machine:
        """A new machine of this world."""
        return Machine(name, self.root / name, command)

    def copy(self, name: str) -> Machine:
        """A machine with a mesh of its own, never started."""
        shutil.copytree(self.idle.home, self.root / name)
        return self.machine(name)

    def file(self, name: str, content: bytes) -> str:
        path = self.root / name
        path.write_bytes(content)
        return str(path)

    def model_file(self, name: str) -> Path:
        return self.worker.home / "models" / MODEL / name


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="covey-"))
    names = ("submitter", "worker", "idle")
    submitter, worker, idle = (Machine(name, root / name) for name in names)
    aggregator = Machine("aggregator", root / "aggregator", "covey-aggregator")
    world = World(root, submitter, worker, aggregator, idle)
    with stopping(submitter, worker, aggregator):
        for machine in (submitter, idle):
            machine.run("init", "--role", "admitter,submitter")
        submitter.up()
        world.tickets["expired"] = a_ticket(world, "worker", "1s")
        world.tickets["used"] = a_ticket(world, "worker,submitter")
        worker.run("join", world.tickets["used"])
        worker.run("models", "add", MODEL)
        worker.up()
        aggregator.run("join", a_ticket(world, "aggregator"))
        aggregator.up()
        submitter.until(lambda: sees_worker(submitter), "see the worker")
        world.second = subprocess.Popen(
            [BIN / "covey", "up"],
            env=submitter.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with world.second:
            yield world
            world.second.kill()
    shutil.rmtree(root)


def a_ticket(world: World, roles: str = "worker", ttl: str = "10m") -> str:
    return world.submitter.run("ticket", "--role", roles, "--ttl", ttl).stdout.strip()


def sees_worker(machine: Machine) -> bool:
    return any(MODEL in row["models"] for row in machine.json("peers"))


def refused(
    machine: Machine, *arguments: str, says: str, hint: str = "", status: int = 1, stdin: str = ""
) -> None:
    """Run a command that must fail, and check that a person can read why."""
    done = machine.run(*arguments, status=status, stdin=stdin)
    assert done.stdout == ""
    explains(machine, done.stderr, says, hint)


def explains(machine: Machine, stderr: str, says: str, hint: str) -> None:
    """Check that stderr is one line that says what is wrong, and at most a hint."""
    lines = stderr.splitlines()
    assert lines[0].startswith(f"{machine.command}: "), stderr
    assert says in lines[0]
    assert len(lines) <= 2, stderr
    assert len(lines) == 1 or lines[1].startswith("  hint: ")
    assert hint in "".join(lines[1:])


@dataclass(frozen=True)
class Case:
    """A mistake on the command line: ``$name`` in its arguments is a file of ``FILES``."""

    name: str
    arguments: tuple[str, ...]
    says: str
    hint: str = ""
    status: int = 1
    stdin: str = ""


FILES = {
    "empty": b"",
    "blank": b"\n\n",
    "binary": b"\xff\xfe\x00\x01",
    "nul": b"text\0text",
    "bad.jsonl": b'{"text": 3}\n',
    "torn.jsonl": b'"whole"\n{"text": \n',
}

INPUTS = [
    Case(
        "unknown model",
        ("run", "embed", "--model", "no-such"),
        "no worker offers the model no-such",
        "models there are",
    ),
    Case(
        "unknown kind",
        ("run", "dream", "--model", MODEL),
        "no kind 'dream'",
        "kinds: bench.",
        2,
    ),
    Case("no peer", (*RUN, "--peer", "12D3KooWnobody"), "is not a peer id", "covey peers", 2),
    Case("unknown peer", (*RUN, "--peer", STRANGER), "is not known here", "covey peers"),
    Case("unknown precision", (*RUN, "--precision", "fp1"), "'fp1' is not one of", "--help", 2),
    Case("unknown option", (*RUN, "--modle", "x"), "No such option", "covey run --help", 2),
    Case("unknown command", ("rum",), "No such command 'rum'", "covey --help", 2),
    Case("missing option", ("run", "embed"), "Missing option '--model'", "covey run --help", 2),
    Case("no time", (*RUN, "--timeout", "0"), "is not more than 0 and", "--help", 2),
    Case("unknown role", ("ticket", "--role", "king"), "'king' is not a role", "--help", 2),
    Case("unknown duration", ("ticket", "--ttl", "soon"), "'soon' is not a duration", "", 2),
    Case("wrong job id", (*RUN, "--job-id", "x"), "'x' is not a job id", "openssl rand", 2),
    Case("no job's id", ("job", "show", "x"), "'x' is not a job id", "covey job list", 2),
    Case("unknown job", ("job", "show", "abcdef"), "no job here whose id begins with abcdef"),
    Case("no such file", (*RUN, "--input", "$none"), "cannot be read: No such file"),
    Case("a directory", (*RUN, "--input", "/"), "cannot be read: Is a directory"),
    Case("empty stdin", RUN, "stdin is empty", "at least one line", stdin=""),
    Case("empty file", (*RUN, "--input", "$empty"), "is empty", "at least one line"),
    Case("blank lines", (*RUN, "--input", "$blank"), "is empty", "at least one line"),
    Case("binary", (*RUN, "--input", "$binary"), "is not UTF-8 text (byte 0)", "iconv"),
    Case("NUL bytes", (*RUN, "--input", "$nul"), "it holds NUL bytes"),
    Case("not a text", (*RUN, "--input", "$bad.jsonl"), "bad.jsonl:1 is neither a string"),
    Case("not JSON", (*RUN, "--input", "$torn.jsonl"), "torn.jsonl:2 is not JSON"),
    Case("too large", (*RUN, "--input", "$huge"), "is larger than 64 MiB", "split it"),
    Case("no place for output", (*RUN, "--output", "/no/such/file"), "cannot be written: No such"),
    Case("output in a folder's place", (*RUN, "--output", "/"), "cannot be written: Is a dir"),
    Case("unknown record", ("records", "show", "nonsense"), "is not a CID", "this has 8", 2),
    Case("empty record name", ("records", "show", ""), "'' is not a CID", "59", 2),
    Case("no rows", ("records", "list", "--limit", "0"), "is not in the range", "--help", 2),
    Case("unknown model to add", ("models", "add", "no-such"), "not in the catalogue", "--path"),
    Case("no model to remove", ("models", "remove", "no-such"), "is not installed here"),
    Case("nonsense as a ticket", ("join", "nonsense"), "starts with covey1", "the whole line"),
    Case("a worker to measure that nobody knows", ("bench", "run", "--peer", "12D3"), "not known"),
    Case("measuring what is no worker", ("bench", "run"), "this node is no worker", "--all"),
    Case(
        "one worker and all", ("bench", "run", "--all", "--peer", "x"), "exclude", "run --help", 2
    ),
    Case("unknown suite", ("bench", "run", "--suite", "slow"), "'slow' is not one", "--help", 2),
    Case("unknown benchmark", ("bench", "show", NOWHERE), "holds no record", "covey bench list"),
    Case("no CID of a benchmark", ("bench", "show", "x"), "is not a CID", "begins with baf", 2),
    Case("rerun of nothing", ("bench", "rerun", NOWHERE), "holds no record", "covey bench list"),
    Case("no tolerance", ("bench", "rerun", NOWHERE, "--tolerance", "0"), "range", "--help", 2),
    Case("comparing one", ("bench", "compare", "x"), "at least two", "compare --help", 2),
    Case("comparing nobody", ("bench", "compare", "x", "y"), "no benchmark of 'x'", "bench run"),
    Case(
        "an input for a benchmark",
        ("run", "bench.compute", "--model", "machine", "--input", "$blank"),
        "takes no input",
        "--help",
    ),
    Case(
        "a benchmark that is too large",
        ("run", "bench.compute", "--model", "machine", "--size", "4096"),
        "size is a whole number, 64 to 2048",
        "",
        2,
    ),
    Case(
        "a benchmark for others to verify",
        ("run", "bench.compute", "--model", "machine", "--verify", "1"),
        "nobody else can verify a benchmark",
        "covey bench rerun",
    ),
    Case("init twice", ("init",), "belongs to a mesh already", "another state directory"),
]


@pytest.mark.parametrize("case", INPUTS, ids=[case.name for case in INPUTS])
def test_bad_input(world: World, case: Case) -> None:
    for name, content in FILES.items():
        world.file(name, content)
    with open(world.root / "huge", "wb") as file:
        file.truncate((64 << 20) + 1)
    arguments = [
        str(world.root / argument[1:]) if argument.startswith("$") else argument
        for argument in case.arguments
    ]
    stdin = SENTENCE if case.name != "empty stdin" else ""

    refused(
        world.submitter, *arguments, says=case.says, hint=case.hint, status=case.status, stdin=stdin
    )


def test_a_record_that_is_no_benchmark(world: World) -> None:
    (record, *_) = world.submitter.json("records", "list", "--kind", "environment")

    refused(
        world.submitter,
        "bench",
        "show",
        record["cid"],
        says="is no benchmark: it is environment",
        hint="covey bench list",
    )


# Tickets


def tampered(world: World, **changes: object) -> str:
    """A ticket with other content and a checksum that fits it."""
    ticket = Ticket.parse(a_ticket(world))
    return str(msgspec.structs.replace(ticket, **changes))


def mistyped(world: World) -> str:
    ticket = a_ticket(world)
    return ticket[:40] + ("a" if ticket[40] != "a" else "b") + ticket[41:]


TICKETS: list[tuple[str, Callable[[World], str], str, str]] = [
    ("expired", lambda w: w.tickets["expired"], "the ticket has expired", "new ticket"),
    ("used", lambda w: w.tickets["used"], "used by another peer", "new ticket"),
    ("mistyped", mistyped, "its checksum does not fit", "copy the whole line"),
    ("cut off", lambda w: a_ticket(w)[:-9], "not a valid ticket", "copy the whole line"),
    (
        "tampered",
        lambda w: tampered(w, secret=bytes(SECRET_BYTES)),
        "issued no such ticket",
        "new ticket",
    ),
    ("of another mesh", lambda w: tampered(w, mesh=bytes(32)), "another mesh", "new ticket"),
]


@pytest.mark.parametrize(("name", "make", "says", "hint"), TICKETS, ids=[t[0] for t in TICKETS])
def test_a_ticket_that_buys_nothing(
    world: World, name: str, make: Callable[[World], str], says: str, hint: str
) -> None:
    newcomer = world.machine(f"newcomer-{name.split()[0]}")
    ticket = make(world)
    if name == "expired":
        time.sleep(1)

    refused(newcomer, "join", ticket, says=says, hint=hint)
    assert newcomer.json("id")["mesh"] is None if newcomer.home.exists() else True


def test_a_member_of_one_mesh_does_not_join_another(world: World) -> None:
    refused(
        world.copy("member"),
        "join",
        a_ticket(world),
        says="belongs to another mesh",
        hint="another state directory",
    )


def test_an_admitter_that_is_away(world: World) -> None:
    ticket = Ticket.parse(a_ticket(world))
    away = tampered(world, addresses=("/ip4/127.0.0.1/tcp/1",))

    refused(world.machine("early"), "join", away, says=ticket.admitter, hint="")


# Daemons and state directories


def test_without_a_daemon(world: World) -> None:
    for arguments in (("ticket",), RUN):
        refused(world.idle, *arguments, says="no daemon answers", hint="covey up", stdin=SENTENCE)


def test_without_an_identity(world: World) -> None:
    for machine in (world.machine("nobody"), world.machine("noone", "covey-aggregator")):
        machine.home.mkdir()
        refused(machine, "up", says="identity.key cannot be read", hint="join")


def test_a_port_in_use(world: World) -> None:
    machine = world.copy("port")
    machine.port = world.submitter.port

    refused(
        machine, "up", says=f"can't listen on /ip4/127.0.0.1/tcp/{machine.port}", hint="another"
    )


def test_a_port_of_metrics_in_use(world: World) -> None:
    machine = world.machine("metrics", "covey-aggregator")
    machine.run("join", a_ticket(world, "aggregator"))
    machine.options |= {
        "COVEY_METRICS_PORT": str(world.submitter.port),
        "COVEY_LOG_LEVEL": "error",
    }

    refused(machine, "up", says=f"can't listen on 127.0.0.1:{world.submitter.port}", hint="port")


def test_a_ticket_for_the_other_program(world: World) -> None:
    node = world.machine("no-node")
    aggregator = world.machine("no-aggregator", "covey-aggregator")

    refused(node, "join", a_ticket(world, "aggregator"), says="is for an aggregator", hint="still")
    refused(aggregator, "join", a_ticket(world, "worker"), says="is for a node", hint="still good")


def test_a_node_that_may_not_submit(world: World) -> None:
    machine = world.machine("observer")
    machine.run("join", a_ticket(world, "observer"))
    with stopping(machine):
        machine.up()
        refused(machine, *RUN, says="may not submit jobs", hint="--role submitter", stdin=SENTENCE)


def test_a_closed_stdin(world: World) -> None:
    machine = world.submitter
    command = f"exec {BIN / 'covey'} {' '.join(RUN)} <&-"
    done = subprocess.run(
        ["sh", "-c", command], env=machine.environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    explains(machine, done.stderr, "stdin is closed", "--input")


def test_a_state_directory_in_use(world: World) -> None:
    assert world.second is not None
    stdout, stderr = world.second.communicate(timeout=60)

    assert (world.second.returncode, stdout) == (1, "")
    explains(world.submitter, stderr, "is in use by another process", "stop the daemon")


def test_a_wrong_option(world: World) -> None:
    machine = world.copy("options")
    (machine.home / "covey.toml").write_text("[listen]\nprot = 1\n[log]\nlevel = 'loud'\n")

    refused(machine, "up", says="listen.prot is not an option; ", hint="config show")


Damage = Callable[[Path], object]


SEGMENT = "journal/0000000000000000.segment"


def overwrite(name: str, content: bytes) -> Damage:
    def damage(home: Path) -> None:
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(content)

    return damage


DAMAGED: list[tuple[str, Damage, str, str]] = [
    ("key", overwrite("identity.key", b"no key"), "does not hold a key", "backup"),
    ("open key", lambda home: (home / "identity.key").chmod(0o644), "has mode 0644", "chmod 600"),
    ("boot", overwrite("boot", b"\0\0"), "does not hold a counter", "remove"),
    ("membership", overwrite("membership.cbor", b"\0"), "membership.cbor is damaged", "remove"),
    ("journal", overwrite(SEGMENT, b"\0" * 500), "not start like a journal", "restore it"),
    ("tickets", overwrite("tickets.jsonl", b"}\n" * 3_000), "tickets.jsonl is damaged", "remove"),
    ("options", overwrite("covey.toml", b"[["), "is not valid TOML", "has a default"),
    ("newer", overwrite("home.version", b"2\n"), "written by a newer covey", "upgrade covey"),
    ("version", overwrite("home.version", b"?"), "does not hold a version", "write 1 into it"),
]


@pytest.mark.parametrize(("name", "damage", "says", "hint"), DAMAGED, ids=[d[0] for d in DAMAGED])
def test_a_damaged_state_directory(
    world: World, name: str, damage: Damage, says: str, hint: str
) -> None:
    machine = world.copy(f"damaged-{name.replace(' ', '-')}")
    damage(machine.home)
    before = contents(machine.home)

    refused(machine, "up", says=says, hint=hint)
    after = contents(machine.home)
    assert before.items() <= after.items(), "what is there is left alone"


def contents(home: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in home.rglob("*") if p.is_file() and p.name != "boot"}


def test_an_aggregators_directory_of_a_newer_version(world: World) -> None:
    machine = world.machine("newer-aggregator", "covey-aggregator")
    shutil.copytree(world.idle.home, machine.home)
    (machine.home / "home.version").write_text("9\n")

    for arguments in (("up",), ("status",)):
        refused(machine, *arguments, says="written by a newer covey", hint="upgrade")


@contextmanager
def a_disk(path: Path, size: str) -> Iterator[Path]:
    """Mount a small disk at ``path``; skip where that is not allowed."""
    path.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "covey-test", str(path))
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        yield path
    finally:
        subprocess.run(("umount", "-l", str(path)), check=True)


def test_a_read_only_state_directory(world: World) -> None:
    with a_disk(world.root / "readonly", "8m") as path:
        shutil.copytree(world.idle.home, path, dirs_exist_ok=True)
        subprocess.run(("mount", "-o", "remount,ro", str(path)), check=True)
        machine = world.machine("readonly")

        refused(machine, "up", says="Read-only file system", hint="that you may write to")
        assert machine.json("id")["peer"] == world.idle.json("id")["peer"]


# A full disk


def fill(path: Path) -> Path:
    """Leave no byte free; return the file that takes the room."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
    return filler


def test_a_node_on_a_full_disk_refuses_keeps_reading_and_recovers(world: World) -> None:
    with a_disk(world.root / "small", "6m") as path:
        node = world.machine("small")
        node.run("join", a_ticket(world, "submitter"))
        with stopping(node):
            node.up()
            node.until(lambda: sees_worker(node), "see the worker")
            node.json(*RUN, stdin=SENTENCE)
            filler = fill(path)
            node.until(lambda: ends_with(node, 1, *RUN), "use up the last pages' slack")
            refused(node, *RUN, says="is full", hint="free space", stdin=SENTENCE)
            read = node.json("records", "list", "--kind", "job.accepted")
            node.json("status")
            filler.unlink()
            node.json(*RUN, stdin=SENTENCE)
            after = node.json("records", "list", "--kind", "job.accepted")
            fill(path)
            node.down()
            refused(node, "up", says="No space left", hint="free space")

    assert read
    assert len(after) == len(read) + 1


def test_an_aggregator_on_a_full_disk_promises_nothing_keeps_answering_and_recovers(
    world: World,
) -> None:
    with a_disk(world.root / "tiny", "8m") as path:
        tiny = world.machine("tiny", "covey-aggregator")
        tiny.run("join", a_ticket(world, "aggregator"))
        with stopping(tiny):
            tiny.up()
            tiny.until(lambda: tiny.json("status")["records"], "take records in")
            filler = fill(path)
            cid = tiny.until(lambda: job_unknown_at(tiny, world), "use up the last pages' slack")
            tiny.json("status")
            filler.unlink()
            tiny.until(lambda: ends_with(tiny, 0, "lineage", cid), "take in what it could not")
            check = tiny.json("check")

    assert check["ok"]


def ends_with(machine: Machine, status: int, *arguments: str) -> bool:
    return machine.run_any(*arguments, stdin=SENTENCE).returncode == status


def job_unknown_at(aggregator: Machine, world: World) -> str | None:
    """Run a job; return its acceptance's CID if the aggregator did not take that in."""
    cid = world.submitter.json(*RUN, stdin=SENTENCE)["accepted_cid"]
    return cid if ends_with(aggregator, 1, "lineage", cid) else None


# Jobs that are submitted again


def test_a_job_id_stands_for_one_job(world: World) -> None:
    again = (*RUN, "--job-id", "0123456789abcdef" * 2)

    first = world.submitter.json(*again, stdin=SENTENCE)
    second = world.submitter.json(*again, stdin=SENTENCE)
    refused(world.submitter, *again, says="in use for another job", hint="choose", stdin="other")

    assert first["accepted_cid"] == second["accepted_cid"]
    assert first["output"] == second["output"]


# Models at the worker


MODEL_DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    ("flipped", lambda path: flip_byte(path, 1 << 20), "does not have the digest"),
    ("truncated", lambda path: os.truncate(path, 1 << 20), "bytes of its manifest"),
    ("removed", lambda path: path.unlink(), "cannot be read: No such file"),
]


@pytest.mark.parametrize(
    ("name", "damage", "says"), MODEL_DAMAGE, ids=[each[0] for each in MODEL_DAMAGE]
)
def test_a_damaged_model(world: World, name: str, damage: Damage, says: str) -> None:
    weights = world.model_file("model.safetensors")
    damage(weights)

    refused(world.submitter, *RUN, says=says, hint="covey models remove", stdin=SENTENCE)
    world.worker.run("models", "add", MODEL)
    world.submitter.json(*RUN, stdin=SENTENCE)


def test_a_model_without_its_manifest(world: World) -> None:
    world.model_file("manifest.json").unlink()

    refused(world.submitter, *RUN, says="has no manifest", hint="covey", stdin=SENTENCE)
    world.worker.run("models", "add", MODEL)
    world.submitter.json(*RUN, stdin=SENTENCE)


# Peers that go away, last, since they stay away


def test_z1_without_its_aggregator_a_node_works_and_files_can_still_be_read(world: World) -> None:
    assert world.aggregator.json("check")["ok"]
    world.aggregator.down()

    world.submitter.json(*RUN, stdin=SENTENCE)
    done = world.aggregator.run("groups", "list")
    assert done.stderr.startswith("covey-aggregator: no daemon answers; ")
    assert world.aggregator.json("check")["ok"]


def test_z2_without_its_worker_a_job_says_what_was_looked_for(world: World) -> None:
    assert world.worker.daemon is not None
    world.worker.daemon.kill()
    world.worker.daemon.wait()

    refused(
        world.submitter,
        *RUN,
        says=f"looked for kind embed, model {MODEL}, precision auto; ",
        hint="covey peers",
        stdin=SENTENCE,
    )


def test_every_sentence_stands_in_the_documents() -> None:
    docs = DOCS.read_text()
    told = """
        no daemon answers
        is in use by another process
        written by a newer covey
        is not UTF-8 text
        is larger than 64 MiB
        is empty
        has no model
        there is no kind
        there is no parameter
        takes text, not files
        is no WAV file
        labels are missing
        is not known here
        No such option
        is no worker
        is no benchmark
        no benchmark of
        nothing to measure
        takes no input
        nobody else can verify
        has expired
        used by another peer
        issued no such ticket
        is for an aggregator
        may not submit jobs
        stdin is closed
        names nothing
        admits to another mesh
        not a valid ticket
        can't listen on
        does not hold a key
        does not hold a counter
        is damaged
        does not start like a journal
        Read-only file system
        is full
        No space left
        looked for
        model-damaged
        belongs to another mesh
        cannot be read
    """

    sentences = [line.strip() for line in told.strip().splitlines()]
    assert [sentence for sentence in sentences if sentence not in docs] == []
