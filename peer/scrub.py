"""Takes secrets and places out of error text, before it is fingerprinted, stored or signed.

What must not leave the machine: credentials, private keys, long random strings, e-mail and network
addresses, host names, the machine's and user's own names, and paths (a known program file keeps
its base name, which is the software's and not the person's). Each becomes a constant in brackets,
so that equal faults stay equal on every peer. A secret in no known form and without a telling word
beside it cannot be found this way: code must not put secrets into messages to begin with.

Every pattern starts at a character that few strings have, or is bounded in length, and the input
is cut first: hostile text costs a few milliseconds at most.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Final

MAX_SCRUB_CHARS: Final = 8_000  # four times what a report keeps, so that a cut secret is cut away

SECRET: Final = "[secret]"
_NOBODY: Final[frozenset[str]] = frozenset()


def scrub(text: str, private_names: frozenset[str] = _NOBODY) -> str:
    """Return the text with everything private replaced.

    ``private_names`` are this machine's own words: its host name, its user's name. Only the first
    ``MAX_SCRUB_CHARS`` characters are kept.
    """
    text = text[:MAX_SCRUB_CHARS]
    for sign, pattern, replacement in _RULES:
        if any(part in text for part in sign):
            text = pattern.sub(replacement, text)
    text = _LONG_WORD.sub(_hide_if_random, text)
    names = _names_pattern(private_names)
    return names.sub("[name]", text) if names else text


# Names of this machine

_SHARED_NAMES: Final = frozenset(
    {"root", "user", "admin", "ubuntu", "debian", "nobody", "home", "localhost", "worker", "node"}
)  # the same on many machines, and words of ordinary sentences


@lru_cache(maxsize=8)
def _names_pattern(names: frozenset[str]) -> re.Pattern[str] | None:
    private = sorted(name for name in names if len(name) >= 3 and name not in _SHARED_NAMES)
    if not private:
        return None
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, private))})(?!\w)", re.IGNORECASE)


# Random strings

_LONG_WORD: Final = re.compile(r"(?<![\w+/=-])[\w+/=-]{32,}")
_NAMED_BY_CONTENT: Final = re.compile(
    r"b[a-z2-7]{58}|12D3KooW[1-9A-HJ-NP-Za-km-z]{44}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)  # CIDs, peer ids and UUIDs: public, and what a person would search for


def _hide_if_random(match: re.Match[str]) -> str:
    word = match[0]
    if _NAMED_BY_CONTENT.fullmatch(word.rpartition("/")[2]):
        return word
    return SECRET if _is_hex(word) or _is_mixed(word) else word


def _is_hex(word: str) -> bool:
    return all(character in "0123456789abcdefABCDEF" for character in word)


def _is_mixed(word: str) -> bool:
    """Tell random characters from names: random ones change between kinds most of the time.

    Uniform base64 changes at 62 % of its steps, ``AutoModelForSequenceClassification`` at 26 %.
    """
    kinds = [_kind(character) for character in word]
    changes = sum(a != b for a, b in pairwise(kinds))
    return "0" in kinds and changes > 0.36 * len(word)


def _kind(character: str) -> str:
    if character.isdigit():
        return "0"
    return "A" if character.isupper() else "a" if character.isalpha() else "_"


# Things with a form

_PROGRAM_FILE: Final = re.compile(
    r"[/\\]([\w.-]{1,80}\.(?:py|pyi|so|dll|toml|json|yaml|yml|safetensors|gguf|onnx|cbor|sock|lock"
    r"|duckdb))$"
)
_PUBLIC_HOSTS: Final = frozenset(
    {"localhost", "127.0.0.1", "0.0.0.0", "::1", "github.com", "huggingface.co", "pypi.org"}
)  # the same for everyone, and useful to whoever reads the report


def _hide_path(match: re.Match[str]) -> str:
    path = match[0]
    if path.startswith("/covey/"):
        return path  # a protocol's name
    file = _PROGRAM_FILE.search(path)
    return f"[path]/{file[1]}" if file else "[path]"


def _hide_quoted_path(match: re.Match[str]) -> str:
    quote, path = match[1], match[2]
    if path.startswith("/covey/"):
        return match[0]
    file = _PROGRAM_FILE.search(path)
    return f"{quote}[path]/{file[1]}{quote}" if file else f"{quote}[path]{quote}"


def _hide_host(match: re.Match[str]) -> str:
    return match[0] if match[0].lower() in _PUBLIC_HOSTS else "[host]"


def _hide_ip(match: re.Match[str]) -> str:
    return match[0] if match[0] in _PUBLIC_HOSTS else "[ip]"


def _hide_url(match: re.Match[str]) -> str:
    """Keep scheme and a public host; user, password, path and query may each be a secret."""
    host = match[2].rpartition("@")[2].partition(":")[0]
    shown = host if host.lower() in _PUBLIC_HOSTS else "[host]"
    return f"{match[1]}://{shown}" + ("/[path]" if match[3] else "")


_Replacement = str | Callable[[re.Match[str]], str]
_Rule = tuple[tuple[str, ...], re.Pattern[str], _Replacement]


def _rule(signs: str, pattern: str, replacement: _Replacement) -> _Rule:
    """Return a rule that is tried only if one of the signs, separated by spaces, is in the text."""
    return (tuple(signs.split()), re.compile(pattern), replacement)


_VALUE: Final = r"""(?:"[^"\n]{0,400}"|'[^'\n]{0,400}'|[^\s,;&'")}\]]{1,400})"""
_STRONG: Final = (
    r"passw(?:or)?d|passphrase|pwd|secret|api[_-]?key|private[_-]?key|access[_-]?key"
    r"|authorization|credentials?"
)
_WEAK: Final = (
    r"token|session|cookie|auth|csrf|(?<![A-Za-z])(?:key|signature)"  # ordinary words too
)

# Whole forms come first (a key, a URL with its query), then words that announce a secret, then
# addresses, and paths after the multiaddresses that look like them.
_RULES: Final[tuple[_Rule, ...]] = (
    _rule(
        "-----BEGIN",
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}-----|\Z)",
        SECRET,
    ),
    _rule(
        "://",
        r"\b([A-Za-z][A-Za-z0-9+.-]{0,20})://([^\s/?#'\"<>]{1,300})((?:\[path\]|[^\s'\"<>)\]])*)",
        _hide_url,
    ),
    _rule("covey1", r"\bcovey1[A-Za-z0-9_-]{16,}", SECRET),  # a join ticket
    _rule(
        "gh github_pat_ glpat- hf_ sk- xox AKIA ASIA AIza npm_ pypi- eyJ",
        r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_\w{16,}|sk-[\w-]{16,}"
        r"|xox[a-z]-[\w-]{10,}|A[KS]IA[0-9A-Z]{12,}|AIza[\w-]{30,}|npm_\w{30,}|pypi-[\w-]{30,}"
        r"|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)",
        SECRET,
    ),
    _rule(
        "earer asic EARER ASIC",
        r"(?i)\b(bearer|basic)\s{1,3}(?=[^\s]{0,200}[\d=+/._-])[\w+/=.~-]{8,}",
        rf"\1 {SECRET}",
    ),
    _rule(
        "= :",
        rf"(?i)({_STRONG})([\"']?\s{{0,3}}[=:]\s{{0,3}})(?!\[secret\])"
        rf"(?:(?:bearer|basic|token)\s{{1,3}})?(?!\[secret\]|(?:bearer|basic) ){_VALUE}",
        rf"\1\2{SECRET}",
    ),
    _rule(
        "=",
        rf"(?i)({_WEAK})([\"']?\s?=\s?)(?![=\s]|\[secret\]){_VALUE}",
        rf"\1\2{SECRET}",
    ),
    _rule(
        ":",
        rf"(?i)({_WEAK})([\"']?:\s{{0,3}})(?!\[secret\])(?=[\"']?\S{{0,200}}\d)"
        r"[\"']?[^\s,;'\"]{8,400}[\"']?",
        rf"\1\2{SECRET}",
    ),
    _rule(
        "/ip /dns",
        r"(?<![\w/])/(?:ip4|ip6|dns4|dns6|dnsaddr|dns)/[^\s/'\"]{1,255}(?:/(?:tcp|udp)/\d{1,5})?",
        "[address]",
    ),
    _rule("@", r"[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", "[email]"),
    _rule(
        "/ \\",
        r"""(["'`])((?:/(?=[^/\s])|~|[A-Za-z]:[/\\]|\\\\)[^"'`\n]{1,1000})\1""",
        _hide_quoted_path,
    ),
    _rule(
        "/ \\",
        r"""(?<![\w./~\]<-])(?:(?:(?:~[\w.-]{0,64}|\.{1,2})?/[\w.@+~-]|[A-Za-z]:[/\\]|\\\\\w)"""
        r"""[^\s"'`<>|,;:)\]]{0,1000}|(?:[\w.@-]{1,64}/){1,16}[\w.@-]{1,64}\.[A-Za-z]\w{0,7}\b)""",
        _hide_path,
    ),
    _rule(".", r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])", _hide_ip),
    _rule(
        ":",
        r"(?<![\w:.])(?:(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}"
        r"|(?:[0-9a-fA-F]{1,4}:){1,6}(?::[0-9a-fA-F]{1,4}){1,6}|::[0-9a-fA-F]{1,4})(?![\w:])",
        _hide_ip,
    ),
    _rule(
        ".local .lan .internal .intranet .corp .home .com .net .org .io .co .ai .dev .edu .gov",
        r"(?i)(?<![\w.-])(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,8}"
        r"(?:local|localdomain|lan|internal|intranet|corp|home|com|net|org|io|co|ai|dev|edu|gov)"
        r"(?:\.[a-z]{2})?(?![\w-]|\.\w)",
        _hide_host,
    ),
)
