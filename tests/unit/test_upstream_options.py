from __future__ import annotations

from pathlib import Path

import pytest

from node.config import NodeConfig
from node.offering import _offers
from node.upstream.models import UpstreamModel
from node.upstream.token import read_token
from peer.config import ConfigError, describe, load
from protocols.limits import MAX_ADVERT_MODELS, MAX_ADVERT_OFFERS_BYTES
from tests.support.runners import model_of

URL = "COVEY_UPSTREAM_URL"


def written(folder: Path, content: str, mode: int = 0o600) -> Path:
    file = folder / "upstream.token"
    file.write_text(content, "utf-8")
    file.chmod(mode)
    return folder


@pytest.mark.parametrize(
    "url", ["", "http://127.0.0.1:11434/v1", "https://llm.example/openai/v1/", "http://[::1]:80"]
)
def test_an_upstream_has_an_address_of_http_or_none(tmp_path: Path, url: str) -> None:
    assert load(NodeConfig, tmp_path / "none", {URL: url}).values.upstream.url == url


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (URL, "127.0.0.1:11434"),
        (URL, "ftp://up/v1"),
        (URL, "http://user:word@up/v1"),
        (URL, "http://up/v1?key=word"),
        (URL, "http://up/v1#x"),
        (URL, "http://up/v1\nx"),
        ("COVEY_UPSTREAM_REQUESTS", "0"),
        ("COVEY_UPSTREAM_FIRST_BYTE_S", "0"),
        ("COVEY_UPSTREAM_SILENCE_S", "-1"),
    ],
)
def test_what_is_no_safe_address_and_no_limit_is_a_mistake(
    tmp_path: Path, variable: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(NodeConfig, tmp_path / "none", {variable: value})


def test_the_token_comes_from_the_environment_or_from_a_file_of_its_owner(tmp_path: Path) -> None:
    assert read_token(tmp_path, {}) == ""
    assert read_token(written(tmp_path, "from-a-file\n"), {}) == "from-a-file"
    assert read_token(tmp_path, {"COVEY_UPSTREAM_TOKEN": "from-outside"}) == "from-outside"


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_token_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="others may read"):
        read_token(written(tmp_path, "word", mode), {})


@pytest.mark.parametrize("content", ["two words", "line\nline", "żółw"])
def test_a_token_that_is_not_one_word_is_refused_and_not_repeated(
    tmp_path: Path, content: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_token(written(tmp_path, content), {})

    assert content not in caught.value.message


def test_no_option_shows_the_token(tmp_path: Path) -> None:
    rows = describe(NodeConfig, tmp_path / "none", {"COVEY_UPSTREAM_TOKEN": "word"})

    assert "word" not in str(rows)


def test_an_upstreams_models_take_the_room_that_the_advert_has_left() -> None:
    installed = [model_of(f"model-{number}") for number in range(10)]
    upstream = [UpstreamModel(f"{n:0>128}", str(n), "generate", "12D3KooWPeer") for n in range(90)]
    short = [UpstreamModel(f"m{n}", str(n), "generate", "12D3KooWPeer") for n in range(90)]

    offers = _offers([*installed, *upstream])

    assert [offer.name for offer in offers[:10]] == [model.name for model in installed]
    assert 10 < len(offers) < 10 + MAX_ADVERT_OFFERS_BYTES // 128
    assert {offer.backend for offer in offers[10:]} == {"openai"}
    assert len(_offers(short)) <= MAX_ADVERT_MODELS
    assert len(_offers([*installed, *short])) > 40
