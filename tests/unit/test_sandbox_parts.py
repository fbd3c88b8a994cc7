"""Parts of the sandbox that need no process: the table of system calls, and the files."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from node.runner.sandbox import files, seccomp
from node.runner.sandbox.syscalls import ALLOWED, conditional

HEADERS = {
    0: (
        Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        Path("/usr/include/asm/unistd_64.h"),
    ),
    1: (Path("/usr/include/asm-generic/unistd.h"),),
}
DEFINED = re.compile(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", re.MULTILINE)
OTHER_NAMES = {"newfstatat": "fstatat"}  # the generic header's name for the same call


@pytest.mark.parametrize("column", HEADERS)
def test_the_numbers_are_those_of_the_kernels_headers(column: int):
    header = next((path for path in HEADERS[column] if path.exists()), None)
    if header is None:
        pytest.skip("the kernel's headers are not installed")
    numbers = {name: int(number) for name, number in DEFINED.findall(header.read_text())}
    ours = ALLOWED | {name: pair for name, (pair, _) in conditional(1).items()}

    for name, pair in ours.items():
        theirs = numbers.get(name, numbers.get(OTHER_NAMES.get(name, "")))
        if pair[column] is not None:
            assert theirs == pair[column], name


@pytest.mark.parametrize("column", HEADERS)
def test_the_filter_is_one_that_the_kernel_takes(column: int):
    instructions = seccomp.program(column, own_pid=4_242)

    assert len(instructions) <= 4_096
    for place, (code, if_so, if_not, _) in enumerate(instructions):
        assert max(if_so, if_not) < 256
        if code != seccomp.RETURN:
            assert place + max(if_so, if_not) + 1 < len(instructions)


def test_a_search_path_above_the_model_does_not_open_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home, other = tmp_path / "home", tmp_path / "other"
    model = home / "models" / "m"
    for folder in (model, other):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", ["/", "", str(tmp_path), str(home), str(other)])
    monkeypatch.chdir("/")

    found = set(files.readable(model))

    assert {model, other} <= found
    assert not found & {Path("/"), Path(), tmp_path, home}
