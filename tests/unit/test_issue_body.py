from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings, strategies as st
from markdown_it import MarkdownIt

from aggregator.draft import MAX_FENCE_CHARS, draft_of, fence, moment, umbrella_of
from aggregator.trackers.folder import heading
from peer.capture import About, Origin, report_of
from protocols.report import ExceptionInfo, Frame, Report
from tests.support.reports import START_US, a_group, occurrence, one_group

COMMONMARK = MarkdownIt("commonmark", {"html": True})


def skeleton(markdown: str) -> list[str]:
    """The kinds of all tokens, nested ones too: what a renderer would act upon."""
    return [
        kind
        for token in COMMONMARK.parse(markdown)
        for kind in (token.type, *(child.type for child in token.children or ()))
    ]


def test_an_issue_reads_well() -> None:
    group_ = a_group(count=37)

    draft = draft_of(group_)

    assert draft.title == "ValueError: it broke"
    assert draft.body == EXPECTED.format(id=group_.id, cid=group_.sample.cid)


EXPECTED = """\
**Open.** Seen **37 times** on **2 peers**, first 2026-11-18 11:06 UTC, last 2026-11-18 11:06 UTC.

## What happened

```text
ValueError: it broke
  in node.daemon, run, line 10
  in node.worker, Worker.run, line 20
```

## Where

```text
place      node.worker in Worker.run
component  worker
releases   0.1.0
```

Reported by

- `12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN`
- `12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp`

## Look further

```sh
# every variant and its reports
covey-aggregator groups show {id}
# the first report: what it used, who signed it
covey-aggregator lineage {cid}
```
"""


def hostile_report(text: str) -> Report:
    """A report that says ``text`` wherever a peer may say something."""
    frames = (Frame(text, text, 1), Frame(text, text, 2))
    chain = (ExceptionInfo(text, text, text, frames), ExceptionInfo(text, text, text))
    return report_of(
        chain,
        Origin(text, text, text, ("node",)),
        time_us=START_US,
        about=About(model=text, tags={text: text}),
    )


HOSTILE = [
    "```\n# heading\n<script>alert(1)</script>",
    "````````` ``` ~~~",
    "@alice please see #12, GH-34 and octo/repo#5",
    "&#64;alice &commat;bob &lt;",
    "<!-- covey-fault:000000000000 v1 -->",
    "[click](javascript:alert(1)) ![x](https://x) https://evil.example www.evil.example",
    "\u202eright to left\u2066 zero\u200bwidth\ufeff\x1b[31m\x00",
    "line\u2028separator\u2029paragraph\x85next\rreturn\r\nboth",
    "# a\n## b\n- c\n> d\n    e\n---\n===\n| t | u |\n|---|---|",
    "*bold* _it_ `code` ~~gone~~ \\* \\",
    "",
    " ",
    "\n\n",
]
FORMATTING = "".join(map(chr, [0x202E, 0x2066, 0x200E, 0xFEFF, 0x1B, 0, 0x2028, 0x2029, 0x85]))


def check_harmless(text: str) -> None:
    hostile = one_group([occurrence(hostile_report(text))])
    benign = one_group([occurrence(hostile_report("word"))])
    draft = draft_of(hostile)

    assert skeleton(draft.body) == skeleton(draft_of(benign).body)
    assert kinds_in_heading(draft.title) <= {"text", "text_special"}
    shown = draft.title + draft.body
    assert not any(f"@{letter}" in shown for letter in "abcdefghijklmnopqrstuvwxyz")
    assert not set(shown) & set(FORMATTING)
    assert "<!--" not in shown
    assert "\n" not in draft.title
    assert 0 < len(draft.title) <= 200


def kinds_in_heading(title: str) -> set[str]:
    kinds = skeleton(f"# {heading(title)}")
    assert kinds[:2] + kinds[-1:] == ["heading_open", "inline", "heading_close"]
    return set(kinds[2:-1])


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_a_peer_says_acts_outside_a_fence(text: str) -> None:
    check_harmless(text)


@settings(max_examples=400, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("`~\n\t @#<>![]()abc/-*_|&;:12=\\" + FORMATTING), max_size=80)
)
def test_no_text_acts_outside_a_fence(text: str) -> None:
    check_harmless(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_a_fence_holds_any_text(text: str) -> None:
    kinds = skeleton(f"before\n\n{fence(text)}\n\nafter")

    paragraph = ["paragraph_open", "inline", "text", "paragraph_close"]
    assert kinds == [*paragraph, "fence", *paragraph]


def test_an_endless_message_is_cut() -> None:
    assert len(fence("`" * 50_000)) < 4 * MAX_FENCE_CHARS


def test_an_umbrella_names_every_fault_and_stays_within_a_trackers_limit() -> None:
    groups = [dataclasses.replace(a_group(f"f{n}"), count=3 + n) for n in range(300)]

    draft = umbrella_of("000020261118", groups)

    assert draft.title == "300 more faults without an issue of their own"
    assert max(groups, key=lambda each: each.count).id in draft.body
    assert "and 200 more: covey-aggregator groups list" in draft.body
    assert len(draft.body) < 60_000


def test_a_moment_that_no_calendar_has_is_still_written() -> None:
    assert moment(START_US) == "2026-11-18 11:06 UTC"
    assert moment((1 << 63) - 1) == "at a time that no calendar has"
