import pytest

from node.runner.kinds import BadInputError, Finished, kind_named
from node.runner.kinds.noop import NoopEngine
from protocols.errors import RemoteProtocolError

noop = kind_named("bench.noop")


def test_every_text_comes_back_in_its_place():
    content = noop.encode_input(["one", "two"])
    engine = NoopEngine()

    engine.start(7, content)
    (finished,) = engine.step()

    assert isinstance(finished, Finished)
    assert finished.job == 7
    assert list(noop.rows(finished.output)) == [
        {"index": 0, "text": "one"},
        {"index": 1, "text": "two"},
    ]


def test_an_engine_is_busy_only_while_it_has_jobs():
    engine = NoopEngine()
    engine.start(1, noop.encode_input(["one"]))
    engine.start(2, noop.encode_input(["two"]))
    engine.cancel(2)
    engine.cancel(3)
    assert engine.is_busy

    assert [event.job for event in engine.step()] == [1]

    assert not engine.is_busy
    assert engine.step() == []


def test_what_is_no_list_of_texts_fails_its_job():
    with pytest.raises(BadInputError):
        NoopEngine().start(1, b"\x80")


def test_texts_are_no_array():
    with pytest.raises(BadInputError, match="text"):
        noop.array(noop.encode_input(["one"]))


def test_an_output_that_is_no_list_of_texts_breaks_the_protocol():
    with pytest.raises(RemoteProtocolError):
        list(noop.rows(b"\xff"))
