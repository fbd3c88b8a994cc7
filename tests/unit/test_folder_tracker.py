from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import trio
import trio.testing

from aggregator.draft import draft_of, marker_of
from aggregator.trackers import (
    BlockingTracker,
    Draft,
    Issue,
    TrackerError,
)
from aggregator.trackers.folder import FolderTracker
from tests.support.filing import issue_files
from tests.support.reports import a_group, a_report, occurrence, one_group


def draft(name: str = "a", **changes: object) -> Draft:
    return dataclasses.replace(draft_of(a_group(name)), **changes)


def test_a_file_is_named_after_number_and_title_and_holds_title_body_and_marker(
    tmp_path: Path,
) -> None:
    issue = FolderTracker(tmp_path).create(draft("a"))

    assert issue == Issue(1, "issues/0001-valueerror-it-broke.md")
    text = (tmp_path / issue.where).read_text("utf-8")
    assert text.startswith("# ValueError: it broke\n\n**Open.** Seen **3 times**")
    assert draft("a").marker in text.split("\n")


def test_a_file_that_cannot_be_written_is_a_fault_of_the_tracker(tmp_path: Path) -> None:
    (tmp_path / "issues/0001-valueerror-it-broke.md.new").mkdir(parents=True)

    with pytest.raises(TrackerError):
        FolderTracker(tmp_path).create(draft("a"))


@pytest.mark.parametrize("name", ["0001-mine.md", "7 mine.md", "mine.md", "done/0001-old.md"])
def test_a_file_that_a_person_renamed_and_edited_is_found_again(tmp_path: Path, name: str) -> None:
    first = FolderTracker(tmp_path).create(draft("a"))
    path = tmp_path / "issues" / name
    path.parent.mkdir(exist_ok=True)
    text = (tmp_path / first.where).read_text("utf-8")
    path.write_text("Edited.\r\n" + text.replace("\n", "\r\n") + "My notes.", "utf-8")
    (tmp_path / first.where).unlink(missing_ok=not path.samefile(tmp_path / first.where))

    if not path.exists():  # it kept its very name
        path.write_text(text, "utf-8")
    [found] = FolderTracker(tmp_path).find(draft("a").marker)

    assert found == Issue(1, f"issues/{name}")


def test_notes_below_the_marker_are_kept_when_the_file_is_rewritten(tmp_path: Path) -> None:
    tracker = FolderTracker(tmp_path)
    path = tmp_path / tracker.create(draft("a")).where
    with path.open("a", encoding="utf-8") as file:
        file.write("\nIt is the cable. — Bob")

    for count in (5, 6):
        tracker.update(1, draft_of(a_group("a", count=count)))

    text = path.read_text("utf-8")
    assert "Seen **6 times**" in text
    assert "Seen **5 times**" not in text
    assert text.endswith("\nIt is the cable. — Bob")
    assert text.count("Whatever you write below stays") == 1


def test_a_number_is_never_used_again_even_if_its_file_is_deleted(tmp_path: Path) -> None:
    first = FolderTracker(tmp_path).create(draft("a"))
    (tmp_path / first.where).unlink()

    assert FolderTracker(tmp_path).create(draft("b")).number == 2


def test_numbers_of_files_that_came_from_a_backup_are_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "issues").mkdir()
    (tmp_path / "issues" / "0041-old.md").write_text("old", "utf-8")

    assert FolderTracker(tmp_path).create(draft("a")).number == 42


async def test_two_processes_never_share_a_number(tmp_path: Path) -> None:
    numbers: list[int] = []

    def create_many(tracker: BlockingTracker, prefix: str) -> None:
        numbers.extend(tracker.create(draft(f"{prefix}{n}")).number for n in range(20))

    async with trio.open_nursery() as nursery:
        for prefix in "abcd":
            nursery.start_soon(
                trio.to_thread.run_sync, create_many, FolderTracker(tmp_path), prefix
            )

    assert sorted(numbers) == list(range(1, 81))
    assert len(issue_files(tmp_path)) == 80


def test_a_marker_that_a_peer_wrote_into_its_message_is_not_found(tmp_path: Path) -> None:
    planted = marker_of("0" * 12)
    report = a_report(f"x\n{planted}\n\u2028{planted}\u2028\r{planted}\r")

    FolderTracker(tmp_path).create(draft_of(one_group([occurrence(report)])))

    assert FolderTracker(tmp_path).find(planted) == []


def test_hostile_titles_give_plain_file_names(tmp_path: Path) -> None:
    tracker = FolderTracker(tmp_path)

    names = [tracker.create(draft("a", title=title)).where for title in ("../../x", "é / \0", "数")]

    assert names == ["issues/0001-x.md", "issues/0002-e.md", "issues/0003-fault.md"]


def test_a_folder_that_cannot_be_written_is_a_tracker_error(tmp_path: Path) -> None:
    (tmp_path / "issues").write_text("a file is in the way", "utf-8")

    with pytest.raises(TrackerError) as caught:
        FolderTracker(tmp_path).create(draft("a"))
    assert caught.value.hint
