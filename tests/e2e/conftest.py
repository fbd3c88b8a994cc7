"""Folders whose paths are short enough for a unix socket."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.measured import PLACE


@pytest.fixture(scope="session", autouse=True)
def one_measurement(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ[PLACE] = str(tmp_path_factory.mktemp("hardware") / "hardware.json")


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="covey-"))
    yield folder
    shutil.rmtree(folder)
