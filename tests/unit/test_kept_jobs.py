from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.errors import UnknownError
from node.kept_jobs import (
    KEEP_ENDED_S,
    MAX_OFFERS_LOG_BYTES,
    JobEnd,
    JobFilesDamagedError,
    KeptJobs,
    Promise,
)
from peer.durable import NotWrittenError
from protocols.errors import Refused
from tests.support.jobs import spec

DONE = JobEnd("done", 5, result={"worker": "w"})
SECOND_US = 1_000_000


def test_a_kept_job_is_there_for_whoever_opens_the_folder_next(tmp_path: Path) -> None:
    job = spec(input=b"the input", peer="somebody")

    assert KeptJobs(tmp_path / "jobs").keep(job, 7) is Promise.NEW

    again = KeptJobs(tmp_path / "jobs")
    (found,) = again.unfinished()
    assert found.spec == replace(job, input=b"")
    assert found.submitted_us == 7
    assert again.input(job.job_id) == b"the input"


def test_the_same_job_again_is_the_same_and_another_one_is_refused(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)

    assert kept.keep(spec(), 2) is Promise.KNOWN
    for change in ({"input": b"other"}, {"model": "other"}):
        with pytest.raises(Refused):
            kept.keep(spec(**change), 3)

    assert kept.get(spec().job_id).submitted_us == 1


def test_the_first_word_on_how_a_job_ended_stands(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)

    kept.end(spec().job_id, DONE)
    kept.end(spec().job_id, JobEnd("cancelled", 9))

    assert kept.ended(spec().job_id) == DONE
    assert kept.unfinished() == []


def test_what_a_crash_left_half_kept_is_cleared_away(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    half = tmp_path / spec(2).job_id.hex()
    half.mkdir()
    (half / "input").write_bytes(b"half")
    (tmp_path / "not a job").mkdir()

    assert len(kept.unfinished()) == 1

    assert not half.exists()
    assert (tmp_path / "not a job").exists()


@pytest.mark.parametrize("name", ["job.json", "taken.json", "end.json"])
def test_a_damaged_job_costs_no_other_and_is_met_once(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = KeptJobs(tmp_path)
    for number in (1, 2):
        kept.keep(spec(number), number)
    (tmp_path / spec(1).job_id.hex() / name).write_bytes(b"{")

    for _ in range(2):
        assert [job.spec.job_id for job in kept.unfinished()] == [spec(2).job_id]

    aside = tmp_path / f"{spec(1).job_id.hex()}.damaged"
    (line,) = caplog.records
    assert line.__dict__["where"] == str(aside)
    assert (aside / "input").read_bytes() == spec(1).input
    assert kept.ids() == [spec(2).job_id]
    assert kept.keep(spec(1), 3) is Promise.NEW, "it may be submitted again"


def test_a_job_that_is_damaged_again_takes_the_place_of_what_was_set_aside(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    folder = tmp_path / spec().job_id.hex()
    for time in range(2):
        kept.keep(spec(), time)
        (folder / "job.json").write_bytes(b"{%d" % time)
        assert kept.jobs() == []

    (aside,) = tmp_path.iterdir()
    assert (aside / "job.json").read_bytes() == b"{1"


def test_a_damaged_end_does_not_stop_the_others_from_being_forgotten(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    for number in (1, 2):
        kept.keep(spec(number), 0)
        kept.end(spec(number).job_id, DONE)
    (tmp_path / spec(1).job_id.hex() / "end.json").write_bytes(b"{")

    assert kept.forget_old((KEEP_ENDED_S + 1) * SECOND_US) == 1
    assert kept.ids() == []


def test_a_damaged_job_says_so_to_who_asks_for_it(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    (tmp_path / spec().job_id.hex() / "job.json").write_bytes(b"{")

    with pytest.raises(JobFilesDamagedError):
        kept.get(spec().job_id)


def test_an_input_that_was_changed_on_the_disk_is_not_run(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    (tmp_path / spec().job_id.hex() / "input").write_bytes(b"other")

    with pytest.raises(JobFilesDamagedError):
        kept.input(spec().job_id)


def test_a_job_that_cannot_be_written_is_not_promised(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    folder = tmp_path / spec().job_id.hex()
    (folder / "job.json.new").mkdir(parents=True)  # where a full disk would refuse the new file

    with pytest.raises(NotWrittenError):
        kept.keep(spec(), 1)

    assert kept.ids() == []
    assert kept.keep(spec(), 2) is Promise.NEW


def test_an_unknown_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownError, match="there is no job"):
        KeptJobs(tmp_path).get(spec().job_id)


def test_ended_jobs_are_forgotten_in_time_and_others_never(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    for number in (1, 2, 3):
        kept.keep(spec(number), 0)
    kept.end(spec(1).job_id, JobEnd("done", 0))
    kept.end(spec(2).job_id, JobEnd("failed", 2 * SECOND_US))

    removed = kept.forget_old((KEEP_ENDED_S + 1) * SECOND_US)

    assert removed == 1
    assert set(kept.ids()) == {spec(2).job_id, spec(3).job_id}


def test_a_log_survives_a_line_that_a_crash_cut_off(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    kept.add_to_log(spec().job_id, [{"what": "offered"}, {"what": "leased"}])
    with (tmp_path / spec().job_id.hex() / "log.jsonl").open("ab") as file:
        file.write(b'\n{"what": "acc')
    kept.add_to_log(spec().job_id, [{"what": "lost"}])

    whats = [step["what"] for step in kept.log(spec().job_id)]
    assert whats == ["submitted", "offered", "leased", "lost"]


def test_a_long_log_goes_on_with_what_is_no_offer(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    refused = {"what": "refused", "detail": "x" * 1_000}
    for _ in range(2):
        kept.add_to_log(spec().job_id, [refused] * (MAX_OFFERS_LOG_BYTES // 1_000))
    kept.add_to_log(spec().job_id, [refused, {"what": "lost"}, refused])

    log = kept.log(spec().job_id)
    assert log[-1] == {"what": "lost"}
    assert (tmp_path / spec().job_id.hex() / "log.jsonl").stat().st_size < 3 * MAX_OFFERS_LOG_BYTES


FAILED = JobEnd("failed", 5, error={"code": "worker-lost", "message": "lost", "hint": None})


def test_a_job_that_ended_without_a_result_is_kept_anew_with_all_its_time(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(budget_ms=1_000), 1)
    kept.end(spec().job_id, FAILED)

    promise = kept.keep(spec(budget_ms=1_000), 7_000_000)

    (job,) = KeptJobs(tmp_path).unfinished()
    assert promise is Promise.AGAIN
    assert (job.submitted_us, job.deadline_us()) == (1, 8_000_000)
    assert kept.ended(spec().job_id) is None
    log = [(step["what"], step.get("detail")) for step in kept.log(spec().job_id)]
    assert log == [("submitted", None), ("ended", "failed: lost"), ("tried again", None)]


def test_a_job_that_is_done_is_not_kept_anew(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    kept.end(spec().job_id, DONE)

    assert kept.keep(spec(), 2) is Promise.KNOWN
    assert kept.ended(spec().job_id) == DONE


def test_a_job_that_ended_without_a_result_is_still_no_other(tmp_path: Path) -> None:
    kept = KeptJobs(tmp_path)
    kept.keep(spec(), 1)
    kept.end(spec().job_id, FAILED)

    with pytest.raises(Refused):
        kept.keep(spec(input=b"other"), 2)

    assert kept.ended(spec().job_id) == FAILED
