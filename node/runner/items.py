"""The input of a job: its items, and the parameters of its kind in front of them.

An input is one flat DAG-CBOR list: of text strings, or of byte strings. Where a kind has
parameters, the first element is a byte string that holds them (see ``node.runner.parameters``).
Flat, so that nothing can grow beyond the size of its bytes, and its length is looked at before
anything is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import cbor2

from node.runner.kinds import BadInputError, Items, bad_item
from node.runner.parameters import Parameter, checked, pack, unpack
from protocols.dagcbor import REFUSED_TAGS


@dataclass(frozen=True, slots=True)
class InputCodec:
    """The inputs of one kind. Equal items and parameters have equal bytes."""

    item_type: type[str] | type[bytes]
    parameters: tuple[Parameter, ...]
    max_items: int
    max_item_bytes: int
    max_bytes: int

    def encode(self, items: Items, parameters: Mapping[str, Any]) -> bytes:
        """Return an input; raises ``BadInputError`` for what no worker would take."""
        checked_items = self._checked(list(items))
        try:
            content = cbor2.dumps([*self._head(parameters), *checked_items])
        except UnicodeEncodeError as error:
            raise _no_text(checked_items) from error
        if len(content) > self.max_bytes:
            raise self._too_large(len(content))
        return content

    def decode(self, content: bytes) -> tuple[list[Any], dict[str, Any]]:
        """Return items and parameters, defaults included; raises ``BadInputError`` unless
        ``encode`` could have made this.
        """
        if len(content) > self.max_bytes:
            raise self._too_large(len(content))
        most = self.max_items + bool(self.parameters)
        if self._list_length(content) > most:
            raise self._too_many()
        try:
            whole = listed(content, most)
        except ValueError as error:
            raise self._malformed() from error
        items = self._checked(whole[1:] if self.parameters else whole)
        parameters = self._parameters(whole[0]) if self.parameters else {}
        if len(content) != _encoded_bytes(whole):
            raise BadInputError("the input is not in the one form that DAG-CBOR allows")
        return items, parameters

    def count(self, content: bytes) -> int:
        """Return how many items an input has; it is one that ``encode`` made."""
        return self._list_length(content) - bool(self.parameters)

    def _head(self, parameters: Mapping[str, Any]) -> list[bytes]:
        if self.parameters:
            return [pack(self.parameters, parameters)]
        checked((), parameters)
        return []

    def _parameters(self, head: Any) -> dict[str, Any]:
        if not isinstance(head, bytes):
            raise BadInputError("the input does not begin with its parameters")
        return unpack(self.parameters, head)

    def _checked(self, items: list[Any]) -> list[Any]:
        if not items:
            raise BadInputError(f"the input holds no {self._noun}", hint="give at least one item")
        if len(items) > self.max_items:
            raise self._too_many()
        for index, item in enumerate(items):
            if not isinstance(item, self.item_type):
                raise bad_item(index, f" is not {self._one}")
            if self._is_too_long(item):
                what = f" is larger than {self.max_item_bytes} bytes"
                raise bad_item(index, what, hint="cut it into several items")
        return items

    def _is_too_long(self, item: str | bytes) -> bool:
        if isinstance(item, bytes):
            return len(item) > self.max_item_bytes
        may_be = len(item) * 4 > self.max_item_bytes
        return may_be and len(item.encode(errors="surrogatepass")) > self.max_item_bytes

    def _list_length(self, content: bytes) -> int:
        try:
            return list_length(content)
        except ValueError as error:
            raise self._malformed() from error

    @property
    def _one(self) -> str:
        return "a text" if self.item_type is str else "bytes"

    @property
    def _noun(self) -> str:
        return "texts" if self.item_type is str else "files"

    def _malformed(self) -> BadInputError:
        return BadInputError(f"the input is not a DAG-CBOR list of {self._noun}")

    def _too_many(self) -> BadInputError:
        return BadInputError(
            f"the input holds more than {self.max_items} items", hint="submit it as several jobs"
        )

    def _too_large(self, size_bytes: int) -> BadInputError:
        return BadInputError(
            f"the input of {size_bytes} bytes is over the limit of {self.max_bytes}",
            hint="submit it as several jobs",
        )


def _no_text(items: list[str]) -> BadInputError:
    first = next(index for index, item in enumerate(items) if not _is_text(item))
    return bad_item(first, " holds a lone surrogate, which is not text")


def _is_text(item: str) -> bool:
    try:
        item.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encoded_bytes(strings: list[str | bytes]) -> int:
    """Return the size of the one form of a list of these. Without tags and indefinite lengths, any
    other form is larger; to encode large texts and compare takes twice the time of decoding them.
    """
    sizes = [len(s) if isinstance(s, bytes) or s.isascii() else len(s.encode()) for s in strings]
    return sum(sizes) + sum(map(_head_bytes, sizes)) + _head_bytes(len(strings))


def _head_bytes(value: int) -> int:
    """Return how many bytes the shortest head with this length takes."""
    return 1 if value < 24 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5


def parameters_of(table: tuple[Parameter, ...], content: bytes) -> dict[str, Any]:
    """Return the parameters of an input whose kind has the parameters of ``table``, without its
    items; raises ``BadInputError``.
    """
    stream = io.BytesIO(content[:1] and content[_list_head_bytes(content) :])
    try:
        head = cbor2.CBORDecoder(stream, max_depth=1, allow_indefinite=False, read_size=1).decode()
    except (cbor2.CBORError, ValueError) as error:
        raise BadInputError("the input does not begin with its parameters") from error
    if not isinstance(head, bytes):
        raise BadInputError("the input does not begin with its parameters")
    return unpack(table, head)


def _list_head_bytes(content: bytes) -> int:
    """Return how many bytes say that a list begins, and how long it is."""
    short = content[0] & 31
    return 1 if short < 24 else 1 + (1 << (short - 24)) if short < 28 else 1


def list_length(content: bytes) -> int:
    """Return the length that the list at the beginning of ``content`` claims; raises
    ``ValueError`` where no list begins.
    """
    if not content or content[0] >> 5 != 4 or content[0] & 31 > 27:
        raise ValueError("not a DAG-CBOR list")
    short = content[0] & 31
    return short if short < 24 else int.from_bytes(content[1 : 1 + (1 << (short - 24))], "big")


def listed(content: bytes, most: int) -> list[Any]:
    """Return what is a flat DAG-CBOR list, without tags; raises ``ValueError``, for one that claims
    more than ``most`` items before any is decoded: an empty one takes a byte here and 50 decoded.
    """
    if list_length(content) > most:
        raise ValueError(f"a list of more than {most} items")
    try:
        decoded = cbor2.loads(
            content, max_depth=1, allow_indefinite=False, semantic_decoders=REFUSED_TAGS
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise ValueError("not a flat DAG-CBOR list") from error
    if not isinstance(decoded, list):
        raise ValueError("not a DAG-CBOR list")
    return cast("list[Any]", decoded)
