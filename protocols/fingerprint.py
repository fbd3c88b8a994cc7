"""Fingerprints, version 1: what makes two reports the same fault.

A fault is where it was raised and what was said: the root cause's exception type, its innermost
frame in the program's own code (module and qualified name, never path or line, so that two peers
with other install paths or versions agree) and the normalised first line of its message. Computed
by the peer that reports and again by whoever merges, from the report alone; pure, so both get the
same. Any change to a rule here changes which faults are equal and therefore needs version 2.

On 324 labelled traces of 57 faults (``tests/data``) this groups with a B-cubed F1 above .97;
``tests/bench/grouping.py`` measures it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Final, NamedTuple

import cbor2

from protocols.limits import MAX_TEMPLATE_CHARS
from protocols.report import DEFAULT_ROOTS, ExceptionInfo, Frame, Report

VERSION: Final = 1
MAX_TITLE_CHARS: Final = 200  # a tracker's title may have 256


class Fingerprint(NamedTuple):
    """The identity of a fault, and how people call it."""

    version: int
    fine: bytes
    """Type, place and message template."""
    coarse: bytes
    """Type and place: one bucket for every message raised there."""
    title: str
    culprit: str


def fingerprint(
    exceptions: tuple[ExceptionInfo, ...],
    in_app_roots: tuple[str, ...] = DEFAULT_ROOTS,
    component: str = "",
) -> Fingerprint:
    """Return the fingerprint of a chain of exceptions, outermost first.

    Without any frame the type, template and ``component`` decide, as nothing else is known.
    """
    cause = root_cause(exceptions)
    kind = _type_of(cause)
    frame = culprit_frame(cause, in_app_roots)
    place = (component,) if frame is None else (frame.module, _function_of(frame))
    template = "" if kind in _SELF_EXPLAINING else template_of(kind, cause.value)
    identity = (kind, template, *place) if frame is None else (kind, *place, template)
    return Fingerprint(
        VERSION,
        _digest(identity),
        _digest((kind, *place)),
        title_of(exceptions),
        " in ".join(part for part in place if part),
    )


def fingerprint_of(report: Report) -> Fingerprint:
    """Return what the report's own content says its fingerprint is."""
    roots = report.in_app_include or DEFAULT_ROOTS
    return fingerprint(report.exceptions, roots, report.component)


def is_honest(report: Report) -> bool:
    """Say whether the report claims the fingerprint that its content has; if not, ignore it."""
    actual = fingerprint_of(report)
    return (report.fingerprint, report.coarse) == (actual.fine.hex(), actual.coarse.hex())


def _digest(parts: tuple[str, ...]) -> bytes:
    # A list of an integer and strings has one encoding in CBOR, so the fast encoder is canonical.
    return hashlib.sha256(cbor2.dumps([VERSION, *parts])).digest()


# The place


def root_cause(exceptions: tuple[ExceptionInfo, ...]) -> ExceptionInfo:
    """Return the last exception of the chain that has frames, or the last if none has.

    An exception without frames was made but never raised, or its traceback was lost: it cannot say
    where the fault is.
    """
    return next((each for each in reversed(exceptions) if each.frames), exceptions[-1])


def culprit_frame(cause: ExceptionInfo, in_app_roots: tuple[str, ...]) -> Frame | None:
    """Return the frame that stands for the fault: the innermost one of the program's own code.

    Where none is its own, the innermost that is not plumbing counts. Generated code is passed
    over, because its names count up or hold addresses.
    """
    written = [frame for frame in cause.frames if not frame.generated] or list(cause.frames)
    prefixes = tuple(root + "." for root in in_app_roots)
    own = [frame for frame in written if (frame.module + ".").startswith(prefixes)]
    candidates = own or [frame for frame in written if not _is_plumbing(frame)] or written
    if not candidates:
        return None
    return _recursing_frame(candidates) if cause.type == _RECURSION else candidates[-1]


def _recursing_frame(frames: list[Frame]) -> Frame:
    """Return a member of the cycle that does not depend on where the limit happened to strike."""
    calls = Counter((frame.module, _function_of(frame)) for frame in frames)
    cycle = [frame for frame in frames if calls[frame.module, _function_of(frame)] > 1]
    return min(cycle or frames, key=lambda frame: (frame.module, _function_of(frame)))


def _is_plumbing(frame: Frame) -> bool:
    return (frame.module + ".").startswith(_PLUMBING)


_PLUMBING: Final = tuple(
    module + "."
    for module in (
        # They call what they are given: the fault is in what they called or in who called them.
        "anyio",
        "asyncio",
        "concurrent.futures",
        "contextlib",
        "functools",
        "importlib",
        "multiprocessing",
        "outcome",
        "runpy",
        "threading",
        "torch._dynamo",
        "torch.nn.modules.module",  # Module._call_impl, around every layer
        "torch.utils._contextlib",  # @torch.no_grad's wrapper
        "trio",
    )
)


def _function_of(frame: Frame) -> str:
    """Return the qualified name without what the compiler adds.

    Python 3.12 has no frame for a comprehension where 3.11 has one, and peers run either.
    """
    name = frame.function
    return _COMPILER_NAMES.sub("", name) if "<" in name else name


_COMPILER_NAMES: Final = re.compile(r"<locals>\.|\.<(?:list|set|dict)comp>")


# The type

_RECURSION: Final = "RecursionError"
_CUDA_OOM: Final = "cuda-oom"
# Their messages say where the limit struck or how much memory there was, which is chance.
_SELF_EXPLAINING: Final = frozenset({_RECURSION, _CUDA_OOM, "MemoryError"})


def _type_of(cause: ExceptionInfo) -> str:
    """Return the bare type name: libraries move a class between modules from version to version.

    torch raised plain ``RuntimeError`` for what is ``OutOfMemoryError`` since 1.13.
    """
    is_oom = cause.type in ("OutOfMemoryError", "RuntimeError") and cause.value.startswith(
        "CUDA out of memory"
    )
    return _CUDA_OOM if is_oom else cause.type


# The message


def first_line(message: str) -> str:
    """Return the first line that is not blank: later ones are advice, dumps and data."""
    return next((line for line in message.splitlines() if line.strip()), "").strip()


def template_of(kind: str, message: str) -> str:
    """Return the message's first line with everything that is data replaced by what it is."""
    if kind == "KeyError":
        return "<key>"  # the message is nothing but the key
    line = _PARENTHESES.sub("<par>", first_line(message)[:MAX_TEMPLATE_CHARS])
    line = _DATA.sub(_placeholder, line)
    words = " ".join(_LISTS.sub("<n>", line).split())
    # An aside at the end comes and goes with versions and call paths ("when checking argument …").
    return words.removesuffix("<par>").rstrip()


def _placeholder(match: re.Match[str]) -> str:
    return f"<{match.lastgroup}>"


# What stands in parentheses explains or repeats (call signatures, sizes, versions). The second
# form is a parenthesis that the cut above, or whoever raised, left open.
_PARENTHESES: Final = re.compile(r"\((?:[^()]|\([^()]*\))*\)|\([^()]*$")

# One pass from left to right; where several fit, the first in this order wins. Each alternative
# is linear in the line: it starts at a character that only it accepts, or is bounded in length.
_DATA: Final = re.compile(
    r"""
    (?P<str> "[^"]*" | `[^`]*` | (?<!\w)'[^']*'(?!\w) )            # names and values quoted
  | (?P<url> \b[a-z][a-z0-9+.-]{1,15}://\S+ )
  | (?P<maddr> (?<!\S)/(?:ip4|ip6|dns|dns4|dns6|dnsaddr|p2p|unix)/\S+ )
  | (?P<email> (?<!\S)[^\s@/\\]{1,64}@[^\s@/\\]{1,255} )
  | (?P<path> (?<!\S)[^\s/\\]*[/\\]\S* )                             # paths differ between machines
  | (?P<uuid> \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b )
  | (?P<date> \b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)?)? )
  | (?P<dev> \b(?:cuda|xpu|hip|mps|cpu)(?::\d{1,3}\b|\b(?!\w)) )      # which device is placement
  | (?P<ip> \b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b )
  | (?P<peer> \b(?:12D3KooW|16Uiu2|Qm)[1-9A-HJ-NP-Za-km-z]{38,60}\b )
  | (?P<cid> \bb[a-z2-7]{40,120}\b )
  | (?P<hex> \b0[xX][0-9a-fA-F]+\b
             | \b(?=\d{0,31}[a-fA-F])(?=[a-fA-F]{0,31}\d)[0-9a-fA-F]{7,128}\b )
  | (?P<qty> (?<!\w)[-+]?\d[\d,_.]*\s?(?:[kKMGTP]i?B|[Bb]ytes?|[nµum]?s|sec(?:onds?)?
             |min(?:utes?)?|h(?:ours?)?|days?|%|[kMGT]?Hz)(?!\w) )    # 8.13 GiB and 0 bytes are one
  | (?P<n> [-+]?\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)? )
    """,
    re.VERBOSE,
)
# The length of a list or shape is data as much as its items are.
_LISTS: Final = re.compile(r"<n>(?:\s?[,x×]\s?<n>)+")


# What people read


def title_of(exceptions: tuple[ExceptionInfo, ...]) -> str:
    """Return one line: the outermost exception's type and message, as who saw it happen says it.

    Exception groups are passed over, for their message only counts what they hold.
    """
    shown = next((each for each in exceptions if not _is_group(each)), exceptions[-1])
    line = first_line(shown.value)
    title = " ".join((f"{shown.type}: {line}" if line else shown.type).split())
    return title if len(title) <= MAX_TITLE_CHARS else title[: MAX_TITLE_CHARS - 1] + "…"


def _is_group(each: ExceptionInfo) -> bool:
    return each.type in ("ExceptionGroup", "BaseExceptionGroup")
