from __future__ import annotations

import random
import string
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from peer.scrub import MAX_SCRUB_CHARS, scrub

BASE62 = string.ascii_letters + string.digits
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def word(rng: random.Random, length: int, alphabet: str = BASE62) -> str:
    return "".join(rng.choices(alphabet, k=length))


# Each returns a text and what in it must not be seen.
Leak = Callable[[random.Random], tuple[str, str]]


def prefixed(prefix: str, length: int, alphabet: str = BASE62) -> Leak:
    def leak(rng: random.Random) -> tuple[str, str]:
        secret = prefix + word(rng, length, alphabet)
        return f"cannot log in with {secret} now", secret

    return leak


def beside(before: str, after: str = "", length: int = 12) -> Leak:
    def leak(rng: random.Random) -> tuple[str, str]:
        secret = word(rng, length) + "7"
        return f"call failed: {before}{secret}{after} (try again)", secret

    return leak


def private_key(rng: random.Random) -> tuple[str, str]:
    lines = [word(rng, 64) for _ in range(5)]
    end = "-----END OPENSSH PRIVATE KEY-----" if rng.random() < 0.5 else ""
    text = "\n".join(["bad key:", "-----BEGIN OPENSSH PRIVATE KEY-----", *lines, end])
    return text, lines[rng.randrange(5)]


def network(rng: random.Random) -> tuple[str, str]:
    address = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    return f"no route to {address}:4117", address


def network_6(rng: random.Random) -> tuple[str, str]:
    address = "2001:db8::" + ":".join(f"{rng.randrange(1, 65_536):x}" for _ in range(4))
    return f"no route to [{address}]:4117", address


def multiaddress(rng: random.Random) -> tuple[str, str]:
    address = ".".join(str(rng.randrange(1, 255)) for _ in range(4))
    return f"dialled /ip4/{address}/tcp/4117/p2p/12D3KooW{word(rng, 44, BASE58)}", address


def person(rng: random.Random) -> tuple[str, str]:
    name = word(rng, 8, string.ascii_lowercase)
    return f"mail to {name}@example.org bounced", name


def at_home(form: str) -> Leak:
    def leak(rng: random.Random) -> tuple[str, str]:
        name = word(rng, 8, string.ascii_lowercase)
        return form.format(name), name

    return leak


LEAKS: dict[str, Leak] = {
    "github": prefixed("ghp_", 36),
    "github server": prefixed("ghs_", 36),
    "github fine-grained": prefixed("github_pat_", 60),
    "gitlab": prefixed("glpat-", 20),
    "hugging face": prefixed("hf_", 34),
    "openai": prefixed("sk-", 48),
    "aws id": prefixed("AKIA", 16, string.ascii_uppercase + string.digits),
    "aws key": prefixed("", 40, BASE62 + "/+"),
    "slack": prefixed("xoxb-", 24),
    "google": prefixed("AIza", 35),
    "jwt": prefixed("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.", 43),
    "join ticket": prefixed("covey1", 60),
    "random": prefixed("", 40),
    "random hexadecimal": prefixed("", 64, "0123456789abcdef"),
    "bearer": beside("Authorization: Bearer "),
    "basic": beside("authorization: basic "),
    "password": beside("password="),
    "password in words": beside("the password: "),
    "quoted password": beside("{'db_password': '", "'}"),
    "api key": beside("x-api-key: "),
    "secret": beside("client_secret = "),
    "token": beside("access_token="),
    "token in json": beside('{"token": "', '"}'),
    "cookie": beside("Cookie: sid="),
    "query": beside("https://api.example.com/v1?key=", "&page=2"),
    "user of a url": beside("postgresql://admin:", "@db/jobs"),
    "path of a url": beside("https://hooks.example.com/services/"),
    "private key": private_key,
    "ipv4": network,
    "ipv6": network_6,
    "multiaddress": multiaddress,
    "e-mail": person,
    "host": at_home("cannot resolve {}.corp.example.com"),
    "host on the lan": at_home("{}.local did not answer"),
    "home": at_home("no such file: '/home/{}/input.txt'"),
    "home with spaces": at_home("no such file: '/Users/x/my files/{}.txt'"),
    "windows home": at_home("C:\\Users\\{}\\input.txt is missing"),
    "share": at_home("\\\\server\\{}\\input.txt is missing"),
    "tilde": at_home("cannot read ~{}/x"),
    "relative path": at_home("cannot read people/{}/letter.txt"),
}


@pytest.mark.parametrize("form", LEAKS)
def test_a_secret_of_this_form_never_survives(form: str) -> None:
    rng = random.Random(form)

    for _ in range(300):
        text, secret = LEAKS[form](rng)
        assert secret not in scrub(text), text


@pytest.mark.parametrize(
    "text",
    [
        "name 'neighbors_q' is not defined",
        "'NoneType' object has no attribute 'shape'",
        "CUDA out of memory. Tried to allocate 92.00 MiB (GPU 0; 1.96 GiB total)",
        "mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)",
        "node.worker.Worker.run() got an unexpected keyword argument 'fence'",
        "AutoModelForSequenceClassification has no weights",
        "a_lost_lease_makes_the_submitter_choose_another_peer failed",
        "Expected token: ]",
        "stream /covey/session/1 was reset",
        "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN left",
        "block bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy is missing",
        "job 123e4567-e89b-42d3-a456-426614174000 expired",
        "127.0.0.1:4118 is in use, or localhost",
        "at 12:34:56, line 7: std::vector and/or n/a",
        "version 2.13.0 is older than 2.13.1",
        "",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert scrub(text) == text


def test_names_of_program_files_and_public_hosts_stay() -> None:
    assert scrub("cannot open /data/llama/config.json") == "cannot open [path]/config.json"
    assert scrub("cannot reach https://huggingface.co/a/b") == (
        "cannot reach https://huggingface.co/[path]"
    )


def test_the_machines_own_names_are_taken_out_wherever_they_stand() -> None:
    names = frozenset({"gpu-box-7", "alice", "root", "al"})

    text = scrub("Alice on gpu-box-7: root cause at alice.", names)

    assert text == "[name] on [name]: root cause at [name]."


def test_a_secret_at_the_cut_does_not_show_its_beginning() -> None:
    text = "x" * (MAX_SCRUB_CHARS - 10) + " ghp_" + "a1B2" * 9

    assert "ghp_a1B2" not in scrub(text)[:2_000]


@given(st.text(alphabet=st.sampled_from("aA1 ./\\:@='\"-_[]()\n~%"), max_size=300))
def test_any_text_can_be_scrubbed(text: str) -> None:
    assert len(scrub(text)) <= 12 * len(text)


PIECES = ["a", "/", "'", "1.", "a.", "a:", "@a", "::", "eyJ", "\\", "~/", "a@a.", "token=", "'/"]
PIECES += ["-----BEGIN ", "bearer ", "password:", "a/", "://", "/ip4/", "= ", "(", "[]"]


@pytest.mark.parametrize("piece", [*PIECES, "-----BEGIN A PRIVATE KEY-----"])
def test_hostile_text_is_scrubbed_without_backtracking_for_ever(piece: str) -> None:
    assert scrub(piece * 1_000_000) is not None
