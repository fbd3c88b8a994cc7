"""What ``deploy/`` promises: options that exist, units that start our commands, and restarts."""

from __future__ import annotations

import configparser
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig
from node.config import NodeConfig
from peer.config import load, options

DEPLOY = Path(__file__).parents[2] / "deploy"
LANDLOCK = ("create_ruleset", "add_rule", "restrict_self")


@pytest.mark.parametrize(
    ("file", "schema"), [("covey.toml", NodeConfig), ("aggregator.toml", AggregatorConfig)]
)
def test_the_example_options_are_all_that_exist_at_their_defaults(file: str, schema: type) -> None:
    loaded = load(schema, DEPLOY / file, {})
    written = tomllib.loads((DEPLOY / file).read_text())

    assert loaded.values == schema()
    for option in options(schema):
        section = written[option.section] if option.section else written
        assert option.name in section, option.key


@pytest.mark.parametrize("command", ["covey", "covey-aggregator"])
def test_the_units_start_our_commands_and_start_them_again(command: str) -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # keys are case-sensitive
    unit.read(DEPLOY / f"{command}.service")
    service = unit["Service"]

    assert service["ExecStart"] == f"/opt/covey/bin/{command} up"
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["TimeoutStopSec"]) > 30, "draining takes 30 s at most"
    confining = {
        "landlock_create_ruleset",
        "landlock_add_rule",
        "landlock_restrict_self",
        "seccomp",
    }
    assert command != "covey" or confining <= set(service["SystemCallFilter"].split())
    assert service["Environment"].endswith(f"=%S/{service['StateDirectory']}")


def test_the_nodes_unit_lets_runners_confine_themselves() -> None:
    unit = (DEPLOY / "covey.service").read_text()
    (allowed,) = (line for line in unit.splitlines() if line.startswith("SystemCallFilter="))

    for call in ("seccomp", *(f"landlock_{part}" for part in LANDLOCK)):
        assert call in allowed.split(), call


def test_keep_running_starts_a_command_again_until_it_is_told_to_stop(tmp_path: Path) -> None:
    daemon = tmp_path / "daemon"
    daemon.write_text(
        "#!/bin/bash\ntrap 'echo stopped; exit 0' TERM\necho up $$\nwhile :; do sleep 0.02; done\n"
    )
    daemon.chmod(0o755)

    with subprocess.Popen(
        [DEPLOY / "keep-running.sh", daemon],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"RESTART_DELAY_S": "0.01", "PATH": "/usr/bin:/bin"},
    ) as supervisor:
        assert supervisor.stdout is not None
        for _ in range(3):
            pid = int(supervisor.stdout.readline().removeprefix("up "))
            subprocess.run(("kill", "-9", str(pid)), check=True)
        supervisor.stdout.readline()
        supervisor.send_signal(signal.SIGTERM)
        said = supervisor.stdout.read()

    assert said == "stopped\n"
    assert supervisor.returncode == 0
