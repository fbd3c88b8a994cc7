from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.config import AggregatorConfig, Github, read_token
from peer.config import ConfigError, describe, load

TOKEN = "ghp_0123456789"
REPO = Github(repo="acme/faults")


def secret(folder: Path, content: str, mode: int = 0o600) -> Github:
    path = folder / "token"
    path.write_text(content, "utf-8")
    path.chmod(mode)
    return Github(repo="acme/faults", token_file=str(path))


def test_without_a_repository_nothing_goes_to_github(tmp_path: Path) -> None:
    assert load(AggregatorConfig, tmp_path / "none", {}).values.github.repo == ""


@pytest.mark.parametrize(
    "api",
    [
        "https://api.github.com",
        "https://ghe.acme.org:8443/api/v3",
        "http://127.0.0.1:4000",
        "http://localhost/api/v3/",
    ],
)
def test_github_is_reached_encrypted_or_on_this_machine(tmp_path: Path, api: str) -> None:
    loaded = load(AggregatorConfig, tmp_path / "none", {"COVEY_GITHUB_API": api})

    assert loaded.values.github.api == api


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COVEY_GITHUB_API", "http://api.github.com"),
        ("COVEY_GITHUB_API", "http://127.0.0.1.evil.example"),
        ("COVEY_GITHUB_API", "http://localhost@evil.example"),
        ("COVEY_GITHUB_API", "https://user:secret@ghe.acme.org"),
        ("COVEY_GITHUB_API", "ftp://ghe.acme.org"),
        ("COVEY_GITHUB_REPO", "faults"),
        ("COVEY_GITHUB_REPO", "acme/faults/issues"),
        ("COVEY_GITHUB_REPO", "acme/faults?x=1"),
    ],
)
def test_what_is_no_repository_or_no_safe_address_is_a_mistake(
    tmp_path: Path, variable: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(AggregatorConfig, tmp_path / "none", {variable: value})


def test_the_token_comes_from_the_environment_or_from_a_file_of_its_owner(tmp_path: Path) -> None:
    config = secret(tmp_path, f"{TOKEN}\n")

    assert read_token(REPO, {"COVEY_GITHUB_TOKEN": TOKEN}) == TOKEN
    assert read_token(config, {}) == TOKEN
    assert read_token(config, {"COVEY_GITHUB_TOKEN": "other"}) == "other"


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="others may read") as caught:
        read_token(secret(tmp_path, TOKEN, 0o640), {})

    assert "chmod 600" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "content", ["", " \n", "ghp_one ghp_two", "ghp_\u00e9", "a\x00b", "\udc80"]
)
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)

    with pytest.raises(ConfigError) as caught:
        read_token(Github(repo="acme/faults", token_file=str(path)), {})

    assert "ghp_" not in f"{caught.value.message} {caught.value.hint}"


def test_a_repository_without_a_token_is_told_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no token") as caught:
        read_token(REPO, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(Github(repo="acme/faults", token_file=str(tmp_path / "none")), {})

    assert "COVEY_GITHUB_TOKEN" in (caught.value.hint or "")


def test_the_configuration_never_shows_the_token(tmp_path: Path) -> None:
    environ = {"COVEY_GITHUB_TOKEN": TOKEN, "COVEY_GITHUB_REPO": "acme/faults"}

    assert TOKEN not in str(describe(AggregatorConfig, tmp_path / "none", environ))
    written = tmp_path / "aggregator.toml"
    written.write_text(f'[github]\ntoken = "{TOKEN}"\n', "utf-8")
    with pytest.raises(ConfigError, match="token is not an option") as caught:
        load(AggregatorConfig, written, {})
    assert TOKEN not in caught.value.message
