"""Makes an error report of an exception, and keeps a storm of them from flooding the feed.

A report never holds local variables, arguments or paths, only where the code is; and making one
never raises because of the exception that it describes, however strange that one is.
"""

from __future__ import annotations

import getpass
import platform
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, cast

from peer.scrub import MAX_SCRUB_CHARS, scrub
from protocols.errors import JobFailed
from protocols.fingerprint import fingerprint
from protocols.limits import (
    MAX_REPORT_BYTES,
    MAX_REPORT_CHAIN,
    MAX_REPORT_FRAMES,
    MAX_REPORT_GROUP_LEAVES,
    MAX_REPORT_NAME_CHARS,
    MAX_REPORT_TAGS,
)
from protocols.report import (
    DEFAULT_ROOTS,
    TRIMS,
    ExceptionInfo,
    Frame,
    Level,
    Report,
    size_bytes,
    trim,
)

_MAX_GROUP_DEPTH: Final = 32  # nurseries nest a few deep; a hostile group may nest for ever
_NOBODYS_NAMES: Final = frozenset({"", "root", "user", "admin", "nobody", "localhost"})
"""Names that tell nothing about anybody, and that texts use as plain words."""
_MAX_CHAIN_WALK: Final = 1_000  # a retry loop chains an exception a try


@dataclass(frozen=True, slots=True)
class Origin:
    """What a process says about itself in each report; chosen once, when it starts."""

    component: str
    release: str
    environment: str = ""
    in_app_roots: tuple[str, ...] = ()
    """The program's own packages; none stands for covey's."""
    private_names: frozenset[str] = frozenset()
    """Host and user names, which are taken out of every text."""


def origin(component: str, release: str) -> Origin:
    """Return what this process says about itself; its host and user stay private."""
    return Origin(component, release, private_names=frozenset(_own_names()) - _NOBODYS_NAMES)


def _own_names() -> Iterator[str]:
    yield platform.node()
    with suppress(KeyError, OSError):  # a container may run us under a number without a name
        yield getpass.getuser()


@dataclass(frozen=True, slots=True)
class About:
    """What the program was doing when the error happened."""

    level: Level = "error"
    job_id: str = ""
    job_cid: str = ""
    model: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


_NOTHING: Final = About()


# From exception to chain


def exceptions_of(error: BaseException) -> tuple[ExceptionInfo, ...]:
    """Return the chain of the exception, outermost first and root cause last.

    It follows ``__cause__``, else ``__context__`` unless suppressed; of a group, the first member;
    of a ``JobFailed``, the chain that the worker saw. Never raises.
    """
    return occurrences_of(error)[0]


def occurrences_of(error: BaseException) -> tuple[tuple[ExceptionInfo, ...], ...]:
    """Return one chain for each leaf of the exception's groups, at most eight."""
    chains: list[tuple[ExceptionInfo, ...]] = []
    for path in _paths(error, (), 0):
        chains.append(_describe(path))
        if len(chains) == MAX_REPORT_GROUP_LEAVES:
            break
    return tuple(chains)


def _paths(
    error: BaseException, above: tuple[BaseException, ...], depth: int
) -> Iterator[tuple[BaseException, ...]]:
    """Yield every way from ``above`` over ``error`` down to a root cause."""
    path = list(above)
    seen = {id(each) for each in path}
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(path) < _MAX_CHAIN_WALK:
        path.append(following)
        seen.add(id(following))
        if isinstance(following, BaseExceptionGroup) and depth < _MAX_GROUP_DEPTH:
            group = cast("BaseExceptionGroup[BaseException]", following)
            for child in group.exceptions:
                yield from _paths(child, tuple(path), depth + 1)
            return
        following = _next_in_chain(path[-1])
    yield tuple(path)


def _next_in_chain(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _describe(path: tuple[BaseException, ...]) -> tuple[ExceptionInfo, ...]:
    described = [_info(each) for each in path[:1] + path[1:][-(MAX_REPORT_CHAIN - 1) :]]
    if isinstance(path[-1], JobFailed):
        described += [each for each in path[-1].exceptions if isinstance(each, ExceptionInfo)]
    return tuple(described)


def _info(error: BaseException) -> ExceptionInfo:
    kind = type(error)
    return ExceptionInfo(
        type=_text(kind.__qualname__.rpartition("<locals>.")[2]),
        module=_text(kind.__module__),
        value=_message(error),
        frames=_frames(error.__traceback__),
    )


def _message(error: BaseException) -> str:
    try:
        return _text(str(error))
    except Exception:  # noqa: BLE001 - str() runs the program's code, which may do anything
        return "(its message could not be read)"


def _frames(traceback: TracebackType | None) -> tuple[Frame, ...]:
    """Return the outer and the inner frames, in constant memory for a recursion of any depth."""
    half = MAX_REPORT_FRAMES // 2
    outer: list[Frame] = []
    inner: deque[TracebackType] = deque(maxlen=half)
    while traceback is not None:
        if len(outer) < half:
            outer.append(_frame(traceback))
        else:
            inner.append(traceback)
        traceback = traceback.tb_next
    return (*outer, *map(_frame, inner))


def _frame(traceback: TracebackType) -> Frame:
    code = traceback.tb_frame.f_code
    return Frame(
        module=_module_of(traceback.tb_frame.f_globals),
        function=_text(code.co_qualname.replace("<locals>.", "")),
        line=max(traceback.tb_lineno or 0, 0),
        generated=code.co_filename.startswith("<"),
    )


def _module_of(names: Mapping[str, object]) -> str:
    """Return the module's name; of ``python -m package`` the package's, not ``__main__``."""
    name = names.get("__name__")
    if name == "__main__":
        name = getattr(names.get("__spec__"), "name", name)
    return _text(name) if isinstance(name, str) else "(unknown)"


def _text(text: object) -> str:
    """Return at most what scrubbing reads, as text that can be encoded: no lone surrogates."""
    return str(text)[:MAX_SCRUB_CHARS].encode("utf-8", "replace").decode()


# From chain to report


def report_of(
    error: BaseException | tuple[ExceptionInfo, ...],
    origin: Origin,
    *,
    time_us: int,
    about: About = _NOTHING,
) -> Report:
    """Return the report of one occurrence: scrubbed, cut to size, then fingerprinted."""
    exceptions = exceptions_of(error) if isinstance(error, BaseException) else error
    clean = tuple(_scrubbed(each, origin.private_names) for each in exceptions)
    for size in TRIMS[:-1]:
        report = _build(trim(clean, size), origin, time_us, about)
        if size_bytes(report.to_attributes()) <= MAX_REPORT_BYTES:
            return report
    return _build(trim(clean, TRIMS[-1]), origin, time_us, about)


def _scrubbed(each: ExceptionInfo, private_names: frozenset[str]) -> ExceptionInfo:
    return ExceptionInfo(each.type, each.module, scrub(each.value, private_names), each.frames)


def _build(
    exceptions: tuple[ExceptionInfo, ...], origin: Origin, time_us: int, about: About
) -> Report:
    component = _name(origin.component)
    roots = tuple(map(_name, origin.in_app_roots[:8]))
    identity = fingerprint(exceptions, roots or DEFAULT_ROOTS, component)
    return Report(
        time_us=time_us,
        level=about.level,
        exceptions=exceptions,
        fingerprint=identity.fine.hex(),
        coarse=identity.coarse.hex(),
        component=component,
        release=_name(origin.release),
        environment=_name(origin.environment),
        job_id=about.job_id,
        job_cid=about.job_cid,
        model=_name(about.model),
        tags=_tags(about.tags, origin.private_names),
        in_app_include=roots,
    )


def _tags(tags: Mapping[str, str], private_names: frozenset[str]) -> dict[str, str]:
    kept = list(tags.items())[:MAX_REPORT_TAGS]
    return {
        _name(name): _name(scrub(_text(value), private_names))[: MAX_REPORT_NAME_CHARS // 2]
        for name, value in kept
    }


def _name(text: str) -> str:
    return _text(text)[:MAX_REPORT_NAME_CHARS]
