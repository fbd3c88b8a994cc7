"""Outputs that grow and were cut off in the middle: their pieces are as long as they happened to
be, and who sees them grow sees each byte once.
"""

from __future__ import annotations

import pytest

from protocols.cid import CID
from protocols.job import Accept, Chunk, Done, FromWorker, Input, Lease, Terms
from protocols.pieces import NOTHING, Growing, Held, Outgoing, Piece
from protocols.session import Deliver, Effect, Grown, JobState, Send
from protocols.submitter_job import SubmitterJob
from protocols.worker_job import Granted, Outcome, WorkerJob
from protocols.worker_jobs import WorkerJobs

JOB_ID = b"j" * 16
KEY = ("s", JOB_ID)
SALT = b"o" * 16
INPUT = Outgoing.cut(b"i" * 16, b"count")
RECORD = bytes(CID.of(b"a record"))
TERMS = Terms(JOB_ID, "generate", "m", "auto", 1, 5, bytes(INPUT.cid), b"i" * 16, SALT)

WORDS = (b"one ", b"two ", b"three ", b"four")
OTHERS = (b"one ", b"two ", b"THREE ", b"four")
OTHERWISE_CUT = (b"one two", b" thr", b"ee f", b"our")


def grown(bodies: tuple[bytes, ...]) -> list[Piece]:
    growing = Growing(SALT)
    for body in bodies:
        growing.add(body)
    return list(growing.pieces(0))


def held(count: int, bodies: tuple[bytes, ...] = WORDS) -> Held:
    return Held(count, grown(bodies)[count - 1].digest) if count else NOTHING


def chunks(fence: int, bodies: tuple[bytes, ...] = WORDS) -> list[Chunk]:
    return [Chunk(JOB_ID, fence, p.index, p.body, p.digest) for p in grown(bodies)]


def done(fence: int, bodies: tuple[bytes, ...] = WORDS) -> Done:
    content = b"".join(bodies)
    return Done(JOB_ID, fence, bytes(Outgoing.cut(SALT, content).cid), len(content), RECORD)


# The worker


class Running:
    """A worker that has emitted so many words, was left by its submitter, and is offered the job
    again.
    """

    def __init__(self, emitted: int, bodies: tuple[bytes, ...] = WORDS) -> None:
        self.jobs = WorkerJobs(lambda *_: Granted(1.0, 1_000))
        (piece,) = INPUT.pieces()
        given = Input(JOB_ID, 1, 0, piece.body, piece.digest)
        for message in (TERMS.offer(1, 600_000), Accept(JOB_ID, 1), given):
            self.jobs.receive("s", message, 0)
        for body in bodies[:emitted]:
            self.jobs.emitted(self.job, body, 1)
        self.jobs.detach(KEY, 2)
        self.jobs.receive("s", TERMS.offer(2, 600_000), 3)

    @property
    def job(self) -> WorkerJob:
        job = self.jobs.get(KEY)
        assert job is not None
        return job

    def accepted(self, of_output: Held) -> list[int]:
        """The pieces that are sent at once when the submitter has so much."""
        return sent(self.jobs.receive("s", Accept(JOB_ID, 2, *of_output), 4))

    def finish(self) -> list[Effect]:
        assert self.job.grown is not None
        whole = self.job.grown.complete(b"".join(WORDS))
        return self.jobs.finish(self.job, Outcome(done(1), whole), 5)


def sent(effects: list[Effect]) -> list[int]:
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    return [message.index for message in messages if isinstance(message, Chunk)]


@pytest.mark.parametrize(
    ("of_output", "first"),
    [
        (NOTHING, [0, 1, 2]),
        (held(2), [2]),
        (held(3), []),
        (held(3, OTHERS), [0, 1, 2]),
        (held(2, OTHERWISE_CUT), [0, 1, 2]),
        (held(4), [0, 1, 2]),
    ],
    ids=["nothing", "a part", "all there is", "other", "otherwise cut", "more than there is"],
)
def test_what_grew_meanwhile_is_sent_behind_what_the_submitter_has_of_just_that(
    of_output: Held, first: list[int]
) -> None:
    worker = Running(3)

    assert worker.accepted(of_output) == first
    assert sent(worker.jobs.emitted(worker.job, WORDS[3], 5)) == [3]
    assert worker.finish() == [Deliver(KEY, 2, 4)]


def test_a_run_that_ended_meanwhile_is_delivered_from_there_as_its_pieces_were_cut() -> None:
    for of_output, first in ((held(2), 2), (held(4), 4), (held(3, OTHERS), 0), (NOTHING, 0)):
        worker = Running(3)
        worker.finish()

        effects = worker.jobs.receive("s", Accept(JOB_ID, 2, *of_output), 6)

        assert effects == [Deliver(KEY, 2, first)]


def test_what_grew_is_held_once_when_its_run_is_over() -> None:
    worker = Running(3)
    worker.finish()

    assert worker.job.grown is None
    assert worker.job.outcome is not None
    assert worker.job.outcome.output is not None
    assert worker.job.outcome.output.content == b"".join(WORDS)


def test_what_begins_to_grow_anew_is_sent_from_its_beginning() -> None:
    worker = Running(0)  # restarted: its submitter has of an earlier run what this one has not yet

    assert worker.accepted(held(2)) == []
    assert sent(worker.jobs.emitted(worker.job, WORDS[0], 5)) == [0]
    assert worker.finish() == [Deliver(KEY, 2, 1)]


# The submitter


class Client:
    """A job at one worker, and what its client makes of it."""

    def __init__(self) -> None:
        self.seen = b""
        self.restarts = 0
        self.job = SubmitterJob(TERMS, ["w"], 600)
        self.job.stream()
        self.job.start(0)

    def leased(self) -> Accept:
        effects = self.tell(Lease(JOB_ID, self.job.fence, 10, 15_000, False))
        (accept,) = [e.message for e in effects if isinstance(e, Send)]
        assert isinstance(accept, Accept)
        return accept

    def tell(self, *messages: FromWorker) -> list[Effect]:
        effects = [e for message in messages for e in self.job.receive("w", message, 1)]
        for effect in effects:
            if isinstance(effect, Grown):
                self.restarts += effect.is_anew
                self.seen = effect.body if effect.is_anew else self.seen + effect.body
        return effects

    def is_cut_off(self) -> None:
        self.job.lost("w", "gone", 2)


def test_a_client_sees_each_byte_once_when_the_rest_comes_from_the_middle() -> None:
    client = Client()
    client.leased()
    client.tell(*chunks(1)[:2])
    client.is_cut_off()

    assert client.leased() == Accept(JOB_ID, 2, *held(2))
    client.tell(*chunks(2)[2:], done(2))

    assert client.job.state is JobState.DONE
    assert client.seen == client.job.output() == b"".join(WORDS)
    assert client.restarts == 0


def test_a_client_sees_nothing_again_when_all_comes_again_in_other_pieces() -> None:
    client = Client()
    client.leased()
    client.tell(*chunks(1)[:2])
    client.is_cut_off()
    client.leased()

    client.tell(*chunks(2, OTHERWISE_CUT), done(2, OTHERWISE_CUT))

    assert client.job.state is JobState.DONE
    assert client.seen == client.job.output() == b"".join(WORDS)
    assert client.restarts == 0


def test_what_is_gone_on_with_is_what_came_last_however_much_the_client_has() -> None:
    client = Client()
    client.leased()
    client.tell(*chunks(1)[:3])
    client.is_cut_off()
    client.leased()
    client.tell(chunks(2, OTHERWISE_CUT)[0])  # all of it again, in other pieces, and lost again
    client.is_cut_off()

    assert client.leased() == Accept(JOB_ID, 3, *held(1, OTHERWISE_CUT))
    client.tell(*chunks(3, OTHERWISE_CUT)[1:], done(3, OTHERWISE_CUT))

    assert client.seen == client.job.output() == b"".join(WORDS)
    assert client.restarts == 0


def test_a_client_begins_again_when_what_comes_instead_differs() -> None:
    client = Client()
    client.leased()
    client.tell(*chunks(1)[:3])
    client.is_cut_off()
    client.leased()

    client.tell(*chunks(2, OTHERS), done(2, OTHERS))

    assert client.seen == client.job.output() == b"".join(OTHERS)
    assert client.restarts == 1


def test_a_client_that_has_all_of_it_is_told_nothing_with_the_end() -> None:
    client = Client()
    client.leased()
    client.tell(*chunks(1))
    client.is_cut_off()

    assert client.leased() == Accept(JOB_ID, 2, *held(4))
    assert client.tell(done(2)) == []
    assert client.job.state is JobState.DONE
    assert client.seen == client.job.output() == b"".join(WORDS)
