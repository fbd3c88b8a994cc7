"""The main job from an empty mesh to a filed issue, as separate processes on loopback; ``make
demo`` runs it.

The issue is a file, and one at a GitHub on loopback; with ``COVEY_GITHUB_REPO`` and
``COVEY_GITHUB_TOKEN`` it is one at the real GitHub instead. With ``KEEP=1`` the mesh stays up until
Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.github.repository import REPO, TOKEN
from tests.support.github.server import FakeGithub
from tests.support.machines import Machine, stopping

MODEL = "all-minilm-l6-v2"
SENTENCES = """A man is eating food.
A man is eating a piece of bread.
The girl is carrying a baby.
Ein Mann reitet auf einem Pferd.
"""


def say(title: str, text: str = "") -> None:
    """Print one step and what it showed."""
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n== {title}")
    if text:
        print("   " + text.rstrip().replace("\n", "\n   "))


class Demo:
    """Three nodes and an aggregator below one folder."""

    def __init__(self, root: Path, github: Mapping[str, str] | None = None) -> None:
        """``github`` holds the aggregator's options for it."""
        self.root = root
        self.trackers = 2 if github else 1
        self.node1, self.node2, self.node3 = (
            Machine(f"node{i}", root / f"node{i}") for i in (1, 2, 3)
        )
        options = {"COVEY_FILING_AGE_S": "0", **(github or {})}
        self.aggregator = Machine("aggregator", root / "aggregator", "covey-aggregator", options)

    @property
    def machines(self) -> list[Machine]:
        """Everyone, in the order in which they start."""
        return [self.node1, self.node2, self.node3, self.aggregator]

    def form_a_mesh(self) -> None:
        """Step 1: node 1 makes the mesh, the others join by tickets."""
        say("1. A closed mesh", self.node1.run("init", "--role", "admitter,submitter").stdout)
        self.node1.up()
        for node in (self.node2, self.node3):
            self.join(node, "worker,submitter")
            node.run("models", "add", MODEL)
            node.up()
        self.join(self.aggregator, "aggregator")
        self.aggregator.up()

    def join(self, machine: Machine, roles: str) -> None:
        ticket = self.node1.run("ticket", "--role", roles, "--ttl", "10m").stdout.strip()
        say(f"   {machine.name} joins as {roles}", machine.run("join", ticket).stdout)

    def show_peers(self) -> None:
        """Step 2: everyone advertises what was measured."""
        self.node1.until(self._are_workers_measured, "see both workers measured")
        say("2. covey peers", self.node1.run("peers").stdout)

    def _are_workers_measured(self) -> bool:
        rows = self.node1.json("peers")
        return sum(bool(MODEL in row["models"] and row["capabilities"]) for row in rows) == 2

    def embed(self) -> dict[str, Any]:
        """Step 3: a real job on another peer."""
        sentences = self.root / "sentences.txt"
        sentences.write_text(SENTENCES)
        arguments = ("run", "embed", "--model", MODEL, "--input", str(sentences))
        result = self.node1.json(*arguments)
        first = [round(x, 4) for x in result["output"][0]["embedding"][:4]]
        say(
            f"3. covey {' '.join(arguments)}",
            f"{result['items']} sentences embedded by {result['worker']}\n"
            f"first vector begins {first}\noutput_cid {result['output_cid']}",
        )
        target = self.root / "vectors.npy"
        self.node1.run(*arguments, "--output", str(target))
        say("   and as NumPy", f"{target} ({target.stat().st_size} bytes)")
        return result

    def fail(self) -> None:
        """Step 4: flipped bytes make three jobs fail at two peers; one issue comes of it."""
        self.damage_models()
        self.run_failing_jobs()
        self.aggregator.until(self.is_filed, "file the issue")
        say("   covey-aggregator groups list", self.aggregator.run("groups", "list").stdout)
        say("   covey-aggregator issues list", self.aggregator.run("issues", "list").stdout)
        (issue,) = (self.aggregator.home / "issues").glob("*.md")
        say(f"   {issue}", issue.read_text())
        self.show_issues_of_github()

    def show_issues_of_github(self) -> None:
        """Name the issue that people find at GitHub."""
        for issue in self.aggregator.json("issues", "list"):
            if issue["tracker"].startswith("github:"):
                say(f"   Issue {issue['number']} at {issue['tracker']}", issue["where"])

    def damage_models(self) -> None:
        """Flip a byte in the model's weights at both workers."""
        for node in (self.node2, self.node3):
            weights = node.home / "models" / MODEL / "model.safetensors"
            content = bytearray(weights.read_bytes())
            content[len(content) // 2] ^= 0xFF
            weights.write_bytes(content)

    def run_failing_jobs(self) -> None:
        """Ask node 2 twice and node 3 once for what they can no longer do."""
        for node in (self.node2, self.node2, self.node3):
            peer = node.json("id")["peer"]
            arguments = ("run", "embed", "--model", MODEL, "--peer", peer)
            failed = self.node1.run(*arguments, status=1, stdin=SENTENCES)
            say(f"4. a job at {node.name}, whose weights are damaged, fails", failed.stderr)

    def is_filed(self) -> bool:
        groups = self.aggregator.json("groups", "list")
        return [(group["count"], len(group["issues"])) for group in groups] == [(3, self.trackers)]

    def trace(self, output_cid: str) -> None:
        """Step 5: where the embedding came from."""
        lineage = self.aggregator.run("lineage", output_cid).stdout
        say(f"5. covey-aggregator lineage {output_cid}", lineage)


@contextmanager
def a_github() -> Iterator[Mapping[str, str]]:
    """Yield the options for the real GitHub if they are set, else for one on loopback, which counts
    its issues at the end.
    """
    if os.environ.get("COVEY_GITHUB_REPO") and os.environ.get("COVEY_GITHUB_TOKEN"):
        yield {key: os.environ[key] for key in os.environ if key.startswith("COVEY_GITHUB_")}
        return
    with FakeGithub() as fake:
        yield options_for(fake)
        if len(fake.repository.issues) != 1 or fake.violations:
            sys.exit(f"{len(fake.repository.issues)} issues at GitHub; {fake.violations}")
        say("7. The GitHub on loopback counts 1 issue", "every request kept to its description")


def options_for(fake: FakeGithub) -> Mapping[str, str]:
    """Return an aggregator's options for a GitHub on loopback."""
    return {
        "COVEY_GITHUB_REPO": REPO,
        "COVEY_GITHUB_API": fake.api,
        "COVEY_GITHUB_TOKEN": TOKEN,
    }


def main() -> None:
    """Run the demo; any step that does not show what it promises ends it with status 1."""
    with a_github() as github:
        run(Demo(Path(tempfile.mkdtemp(prefix="covey-demo-")), github))


def run(demo: Demo) -> None:
    """Run every step, and stop what was started."""
    with stopping(*demo.machines):
        demo.form_a_mesh()
        demo.show_peers()
        result = demo.embed()
        demo.fail()
        demo.trace(result["output_cid"])
        say("6. Done", f"a mesh, a job, a lineage and an issue; the state lies in {demo.root}")
        if os.environ.get("KEEP") == "1":
            print("   the mesh stays up: Ctrl-C stops it")
            for machine in demo.machines:
                print(f"   {machine.name}: export {_home_variable(machine)}={machine.home}")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


def _home_variable(machine: Machine) -> str:
    return "COVEY_HOME" if machine.command == "covey" else "COVEY_AGGREGATOR_HOME"


if __name__ == "__main__":
    main()
