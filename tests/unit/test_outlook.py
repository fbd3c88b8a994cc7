"""Why nobody can take a job, in one line."""

from __future__ import annotations

from trio.testing import MockClock

from node.needs import JobNeeds
from node.outlook import why_nobody
from tests.support.jobs import MODEL, JobMesh
from tests.support.runners import model_of


async def test_a_job_that_somebody_fits_needs_no_word(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    mesh.add("worker", model=model_of("other"))
    mesh.introduce()

    assert why_nobody(submitter.directory, JobNeeds("embed", MODEL)) is None
    assert why_nobody(submitter.directory, JobNeeds("embed", MODEL, peer=worker.peer_id)) is None


async def test_what_is_amiss_is_told_in_one_line(autojump_clock: MockClock) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    mesh.introduce()
    alone = why_nobody(submitter.directory, JobNeeds("embed", MODEL))
    worker, other = mesh.add("worker"), mesh.add("worker", model=model_of("other"))
    mesh.introduce()
    directory = submitter.directory

    assert alone == "no worker is known"
    assert why_nobody(directory, JobNeeds("embed", "none")) == "no worker offers the model none"
    assert why_nobody(directory, JobNeeds("generate", MODEL)) == (
        f"{worker.peer_id} runs {MODEL} as embed, not generate"
    )
    assert why_nobody(directory, JobNeeds("embed", MODEL, peer=other.peer_id)) == (
        f"{other.peer_id} has no model {MODEL}"
    )
    assert why_nobody(directory, JobNeeds("embed", MODEL, peer=submitter.peer_id)) == (
        f"{submitter.peer_id} is not known here as a worker"
    )
