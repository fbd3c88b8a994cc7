"""Writes an issue so that a person enjoys reading it and nothing a stranger wrote can act in it.

All text of reports is untrusted. In the body it stands only inside fences longer than any run of
backticks in it, without control, bidirectional or invisible characters, and with its mentions,
references and comments broken, since mail replies strip the fence. Outside of fences stand our own
words, numbers, and names whose form was checked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Final

from aggregator.decisions import Filed
from aggregator.groups import Group
from aggregator.trackers import ClosedAs, Draft
from protocols.report import ExceptionInfo, Frame, Report

MAX_TITLE_CHARS: Final = 200  # GitHub allows 256
MAX_FENCE_CHARS: Final = 20_000
MAX_SHOWN_FRAMES: Final = 30
MAX_SHOWN_NAMES: Final = 10
MAX_SHOWN_GROUPS: Final = 100  # in an umbrella issue; the command tells them all
LABEL: Final = "covey"
REGRESSION_LABEL: Final = "regression"

_STATUS_WORDS: Final = {
    "open": "Open",
    "resolved": "Resolved",
    "ignored": "Ignored",
    "regressed": "Back after it was resolved",
}
_CLOSED_AS: Final[dict[str, ClosedAs]] = {
    "open": "",
    "resolved": "completed",
    "ignored": "not_planned",
    "regressed": "",
}


def marker_of(group_id: str) -> str:
    """Return the line by which the group's issue is found again."""
    return f"<!-- covey-fault:{group_id} v1 -->"


def marker_in(body: str) -> str | None:
    """Return the marker that stands in a body on a line of its own; ours is the first."""
    found = _MARKER.search(body)
    return found[0] if found else None


_MARKER: Final = re.compile(r"^<!-- covey-fault:[0-9a-f]{12} v1 -->$", re.MULTILINE)


def draft_of(group: Group, filed: Filed | None = None) -> Draft:
    """Return the issue of a group; equal groups give equal drafts.

    ``filed`` is what it was filed as: merged groups keep an issue that has another group's name.
    """
    is_regressed = group.status == "regressed"
    return Draft(
        marker=marker_of(filed.group if filed else group.id),
        title=safe_title(group.title),
        body="\n\n".join(
            (
                _summary(group),
                "## What happened",
                fence(_story(group.sample.report)),
                "## Where",
                fence(_circumstances(group)),
                _peers(group.peers),
                "## Look further",
                _commands(group),
            )
        )
        + "\n",
        labels=(LABEL, REGRESSION_LABEL) if is_regressed else (LABEL,),
        closed_as=_CLOSED_AS[group.status],
        closing=group.closing,
    )


def merged_into(group: Group, filed: Filed, duplicate: Filed) -> Draft:
    """Return the closed issue of a group that a person merged into another, which is ``filed``."""
    return Draft(
        marker=marker_of(duplicate.group),
        title=safe_title(group.title),
        body=f"**Merged.** This is the same fault as issue {filed.number}, which goes on.\n",
        labels=(LABEL,),
        closed_as="duplicate",
    )


def duplicate_of(filed: Filed) -> Draft:
    """Return the closed issue that appeared late, beside the one that was filed meanwhile."""
    return Draft(
        marker=marker_of(filed.group),
        title=f"Duplicate of issue {filed.number}",
        body=f"**Duplicate** of issue {filed.number}, made when an answer was lost.\n",
        labels=(LABEL,),
        closed_as="duplicate",
    )


def umbrella_of(umbrella_id: str, held_back: Iterable[Group]) -> Draft:
    """Return the one issue that stands for groups which the caps on new issues hold back."""
    groups = sorted(held_back, key=lambda group: (-group.count, group.id))
    lines = [
        f"{group.id}  {group.count:>7} times  {safe_title(group.title)[:120]}"
        for group in groups[:MAX_SHOWN_GROUPS]
    ]
    if len(groups) > MAX_SHOWN_GROUPS:
        lines.append(f"… and {len(groups) - MAX_SHOWN_GROUPS:,} more: covey-aggregator groups list")
    return Draft(
        marker=marker_of(umbrella_id),
        title=f"{_number(len(groups), 'more fault')} without an issue of their own",
        body="\n\n".join(
            (
                "So many faults appeared at once that each one's issue would be noise. They may"
                " have one cause. Each gets its own issue when the cap allows, unless a person"
                " resolves, ignores or merges it first.",
                fence("\n".join(lines)),
                fence("covey-aggregator groups show ID", "sh"),
            )
        )
        + "\n",
        labels=(LABEL,),
    )


# Safety


def fence(untrusted: str, language: str = "text") -> str:
    """Return the text as a code block that nothing in it can end."""
    text = _defused(_visible(untrusted))[:MAX_FENCE_CHARS]
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def safe_title(untrusted: str) -> str:
    """Return one line that is nothing but text wherever it is shown."""
    line = " ".join(_visible(untrusted).split())
    line = re.sub(r":(?=//)|(?<=\bwww)(?=\.)", "\\g<0>\u200b", _defused(line))  # no bare links
    return line[:MAX_TITLE_CHARS] or "(no title)"


def _visible(text: str) -> str:
    """Drop what does not show (controls, bidirectional marks, zero widths), unify line ends."""
    text = text.replace("\r\n", "\n")
    return "".join(map(_visible_character, text)) if not text.isascii() or _CONTROL(text) else text


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]").search


def _visible_character(character: str) -> str:
    if character in "\n\t":
        return character
    category = unicodedata.category(character)
    if category in ("Zl", "Zp") or character in "\r\x85":
        return "\n"
    return "" if category in ("Cc", "Cf", "Cs", "Cn", "Co") else character


_ACTIVE: Final = re.compile(r"@|#(?=\d)|\bGH-(?=\d)|&(?=#|commat)|<(?=!)", re.IGNORECASE)


def _defused(text: str) -> str:
    """Break what a tracker acts upon (mention, issue number, entity, comment) invisibly."""
    return _ACTIVE.sub("\\g<0>\u200b", text)


# Parts of the body


def _summary(group: Group) -> str:
    return (
        f"**{_STATUS_WORDS[group.status]}.** Seen **{_number(group.count, 'time')}** on"
        f" **{_number(len(group.peers), 'peer')}**,"
        f" first {moment(group.first_seen_us)}, last {moment(group.last_seen_us)}."
    )


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def moment(time_us: int) -> str:
    """Return a moment for people; peers' clocks may say anything."""
    try:
        return f"{_EPOCH + timedelta(microseconds=time_us):%Y-%m-%d %H:%M} UTC"
    except OverflowError:
        return "at a time that no calendar has"


def _story(report: Report) -> str:
    """Tell the chain as a traceback: from the outermost exception to its cause."""
    return "\n\nbecause of\n\n".join(map(_chapter, report.exceptions))


def _chapter(each: ExceptionInfo) -> str:
    headline = f"{each.type}: {each.value}" if each.value else each.type
    return "\n".join((headline, *_frame_lines(each.frames)))


def _frame_lines(frames: tuple[Frame, ...]) -> list[str]:
    lines = [_frame_line(frame) for frame in frames]
    runs = [(line, len(list(same))) for line, same in groupby(lines)]
    told = [line if times == 1 else f"{line}  ({times} times)" for line, times in runs]
    if len(told) <= MAX_SHOWN_FRAMES:
        return told
    half = MAX_SHOWN_FRAMES // 2
    return [*told[:half], f"  … {len(told) - 2 * half} more …", *told[-half:]]


def _frame_line(frame: Frame) -> str:
    line = f", line {frame.line}" if frame.line else ""
    return f"  in {frame.module}, {frame.function}{line}"


def _circumstances(group: Group) -> str:
    report = group.sample.report
    rows = (
        ("place", group.culprit),
        ("component", report.component),
        ("releases", _some(group.releases)),
        ("models", _some(group.models)),
        ("environment", report.environment),
        ("variants", str(len(group.fingerprints)) if len(group.fingerprints) > 1 else ""),
        *((f"tag {name}", value) for name, value in sorted(report.tags.items())),
    )
    width = max(len(name) for name, value in rows if value or name == "place")
    return "\n".join(f"{name:<{width}}  {_one_line(value)}" for name, value in rows if value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _some(names: tuple[str, ...]) -> str:
    more = len(names) - MAX_SHOWN_NAMES
    return ", ".join(names[:MAX_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


_PEER_ID: Final = re.compile(r"[1-9A-HJ-NP-Za-km-z]{32,64}")
_CID: Final = re.compile(r"b[a-z2-7]{20,120}")


def _peers(peers: tuple[str, ...]) -> str:
    named = [f"- `{peer}`" for peer in peers[:MAX_SHOWN_NAMES] if _PEER_ID.fullmatch(peer)]
    more = len(peers) - len(named)
    return "\n".join(
        ["Reported by", "", *named, *([f"- and {_number(more, 'other')}"] if more else [])]
    )


def _commands(group: Group) -> str:
    cids = [("the first report: what it used, who signed it", str(group.sample.cid))]
    cids += [("a job in which it happened", job) for job in group.jobs[:3]]
    lines = ["# every variant and its reports", f"covey-aggregator groups show {group.id}"]
    for what, cid in cids:
        if _CID.fullmatch(cid):
            lines += [f"# {what}", f"covey-aggregator lineage {cid}"]
    return fence("\n".join(lines), "sh")
