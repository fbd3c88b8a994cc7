"""base58btc: the text form of peer ids and of version 0 CIDs.

Both directions are quadratic in the length, so callers bound it first.
"""

from __future__ import annotations

from typing import Final

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES: Final = {char: value for value, char in enumerate(_ALPHABET)}


def to_base58(raw: bytes) -> str:
    """Return ``raw`` as text; leading zero bytes become leading ``1``."""
    number = int.from_bytes(raw, "big")
    chars: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        chars.append(_ALPHABET[digit])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(chars))


def from_base58(text: str) -> bytes:
    """Return the bytes that ``text`` stands for; raises ``ValueError`` for other characters."""
    number = 0
    for char in text:
        if char not in _VALUES:
            raise ValueError(f"{char!r} is no character of base58")
        number = number * 58 + _VALUES[char]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
