from __future__ import annotations

from pathlib import Path

import pytest

from node.config import NodeConfig
from peer.config import ConfigError, describe, load, options


def written(folder: Path, text: str) -> Path:
    file = folder / "covey.toml"
    file.write_text(text)
    return file


def test_without_file_and_environment_every_option_has_its_default(tmp_path: Path) -> None:
    loaded = load(NodeConfig, tmp_path / "covey.toml", {})

    assert loaded.values == NodeConfig()
    assert set(loaded.sources.values()) == {"default"}


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = written(tmp_path, '[listen]\nport = 5000\nhost = "192.0.2.7"\n')

    loaded = load(NodeConfig, file, {"COVEY_LISTEN_PORT": "6000"})

    assert (loaded.values.listen.host, loaded.values.listen.port) == ("192.0.2.7", 6000)
    assert loaded.sources["listen.port"] == "COVEY_LISTEN_PORT"
    assert loaded.sources["listen.host"] == str(file)


@pytest.mark.parametrize(("text", "expected"), [("0", False), ("1", True), ("false", False)])
def test_a_switch_may_be_set_by_a_word_or_a_digit(
    tmp_path: Path, text: str, expected: bool
) -> None:
    assert load(NodeConfig, tmp_path / "none", {"COVEY_SHARE": text}).values.share is expected


def test_a_list_is_written_with_commas_in_the_environment(tmp_path: Path) -> None:
    loaded = load(NodeConfig, tmp_path / "none", {"COVEY_DISCOVERY_BOOTSTRAP": "/a, /b"})

    assert loaded.values.discovery.bootstrap == ("/a", "/b")


def test_every_mistake_is_named_with_its_file_and_key_at_once(tmp_path: Path) -> None:
    file = written(tmp_path, 'colour = 1\n[listen]\nport = "x"\nprot = 1\n')

    with pytest.raises(ConfigError) as caught:
        load(NodeConfig, file, {"COVEY_LOG_LEVEL": "loud"})

    for part in ("colour", "listen.prot", "listen.port", "COVEY_LOG_LEVEL", str(file)):
        assert part in caught.value.message


@pytest.mark.parametrize("text", ["listen = 3\n", "[share]\non = 1\n", "= broken", "a = \xff"])
def test_a_file_of_the_wrong_shape_is_a_mistake_and_not_a_crash(tmp_path: Path, text: str) -> None:
    file = tmp_path / "covey.toml"
    file.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigError):
        load(NodeConfig, file, {})


def test_every_option_is_described_with_its_variable(tmp_path: Path) -> None:
    rows = describe(NodeConfig, tmp_path / "none", {})

    assert [row["key"] for row in rows] == [option.key for option in options(NodeConfig)]
    assert {
        k: v
        for row in rows
        if row["key"] == "listen.port"
        for k, v in row.items()
        if k != "variable"
    } == {"key": "listen.port", "value": 4117, "source": "default"}


@pytest.mark.parametrize(
    ("host", "address"), [("127.0.0.1", "127.0.0.1:4118"), ("::1", "[::1]:4118")]
)
def test_the_api_is_off_and_listens_where_it_is_told(
    tmp_path: Path, host: str, address: str
) -> None:
    loaded = load(NodeConfig, tmp_path / "none", {"COVEY_API_HOST": host})

    assert loaded.values.api.enabled is False
    assert loaded.values.api.address == address


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COVEY_API_PORT", "0"),
        ("COVEY_API_HOST", "unix:/x"),
        ("COVEY_API_HOST", ""),
        ("COVEY_API_TIMEOUT_S", "0"),
    ],
)
def test_an_api_that_could_not_listen_is_a_mistake(
    tmp_path: Path, variable: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(NodeConfig, tmp_path / "none", {variable: value})


def test_a_sandbox_is_one_of_the_levels_or_the_strictest_there_is(tmp_path: Path) -> None:
    file = tmp_path / "none"
    wished = load(NodeConfig, file, {"COVEY_RUNNERS_SANDBOX": "basic"})

    assert wished.values.runners.sandbox == "basic"
    assert NodeConfig().runners.sandbox == "auto"
    with pytest.raises(ConfigError, match="COVEY_RUNNERS_SANDBOX"):
        load(NodeConfig, file, {"COVEY_RUNNERS_SANDBOX": "none"})


@pytest.mark.parametrize("content", [b"[[", b"\xff\xfe"])
def test_a_file_that_is_none_is_told_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "covey.toml").write_bytes(content)

    for file, says in ((tmp_path / "covey.toml", "is not valid TOML"), (tmp_path, "Is a dir")):
        with pytest.raises(ConfigError, match=says) as caught:
            load(NodeConfig, file, {})
        assert caught.value.hint
