import pytest

from node.observations import COLD_AGAIN_S, TRUSTED_FACTOR, Key, Observations, Speed
from protocols.limits import OBSERVATION_FADE_S

MODEL, PRECISION = "m", "auto"


def key(peer: str) -> Key:
    return Key(peer, MODEL, PRECISION)


def a_result(seen: Observations, peer: str, took_s: float, now: float, items: int = 100) -> float:
    """One job of a hundred items, alone; return when it ended."""
    seen.began(key(peer), now)
    seen.finished(key(peer), items, 10 * items, now + took_s)
    return now + took_s


def results(seen: Observations, peer: str, took_s: float, count: int, now: float = 0.0) -> float:
    for _ in range(count):
        now = a_result(seen, peer, took_s, now)
    return now


def speed(seen: Observations, peer: str, stated: float, now: float) -> Speed:
    told = seen.speed(key(peer), stated, now)
    assert told is not None
    return told


def test_who_did_nothing_for_us_has_no_observed_speed() -> None:
    seen = Observations()
    seen.began(key("a"), 0.0)

    assert seen.speed(key("a"), 10.0, 5.0) is None
    assert seen.speed(key("b"), 10.0, 5.0) is None


def test_a_lone_peer_is_as_fast_as_it_states_whatever_it_does() -> None:
    seen = Observations()
    now = results(seen, "a", 3.0, 20)

    assert speed(seen, "a", 10.0, now).gflops == pytest.approx(10.0)


def test_peers_are_compared_by_what_they_did_and_not_by_what_they_state() -> None:
    seen = Observations()
    for peer, took_s in (("slow", 1.0), ("mid", 0.5), ("fast", 0.125)):
        results(seen, peer, took_s, 40)
    now = 40.0
    for peer in ("slow", "mid", "fast"):
        speed(seen, peer, 10.0, now)

    slow, mid, fast = (speed(seen, peer, 10.0, now + 2).gflops for peer in ("slow", "mid", "fast"))

    assert mid == pytest.approx(2 * slow, rel=0.05)
    assert fast == pytest.approx(8 * slow, rel=0.05)
    assert mid == pytest.approx(10.0, rel=0.05), "the median peer does what it states"


def test_the_less_an_advert_is_trusted_the_sooner_results_outweigh_it() -> None:
    seen = Observations()
    now = max(results(seen, peer, 0.5, 20) for peer in ("a", "b", "c"))
    for peer in ("a", "b", "c"):
        speed(seen, peer, 10.0, now)
    now = results(seen, "claimant", 0.5, 2, now)

    told = [seen.speed(key("claimant"), 40.0, now, trust) for trust in (1.0, 0.5, 0.25)]

    speeds = [each.gflops for each in told if each]
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[0] > 20
    assert speeds[-1] < 15


def test_one_result_bounds_what_an_advert_may_claim_and_a_dozen_settle_it() -> None:
    seen = Observations()
    now = max(results(seen, peer, 0.5, 20) for peer in ("a", "b", "c"))
    for peer in ("a", "b", "c"):
        speed(seen, peer, 10.0, now)

    a_result(seen, "liar", 0.5, now)
    after_one = speed(seen, "liar", 1e8, now + 0.5).gflops
    now = results(seen, "liar", 0.5, 11, now + 1)
    after_twelve = speed(seen, "liar", 1e8, now).gflops

    assert after_one < 10 * TRUSTED_FACTOR
    assert after_twelve == pytest.approx(10.0, rel=0.3)


def test_jobs_that_wait_for_each_other_count_their_time_once() -> None:
    alone, together = Observations(), Observations()
    end = results(alone, "a", 1.0, 4)
    for _ in range(4):
        together.began(key("a"), 0.0)
    for number in range(1, 5):
        together.finished(key("a"), 100, 1_000, float(number))

    for seen in (alone, together):
        assert speed(seen, "a", 10.0, end).basis == "4 results of ours, 100 items/s"


def test_what_was_seen_fades_and_the_advert_counts_again() -> None:
    seen = Observations()
    now = max(results(seen, peer, took_s, 20) for peer, took_s in (("a", 1.0), ("b", 4.0)))
    for peer in ("a", "b"):
        speed(seen, peer, 10.0, now)

    fresh = speed(seen, "b", 10.0, now + 2).gflops / speed(seen, "a", 10.0, now + 2).gflops
    later = now + 3 * OBSERVATION_FADE_S
    faded = speed(seen, "b", 10.0, later).gflops / speed(seen, "a", 10.0, later).gflops

    assert fresh == pytest.approx(0.25, rel=0.1)
    assert 0.6 < faded < 1
    assert seen.speed(key("b"), 10.0, now + 10 * OBSERVATION_FADE_S) is None


def test_a_job_without_a_result_says_nothing_of_speed() -> None:
    seen = Observations()
    now = results(seen, "a", 1.0, 3)
    before = speed(seen, "a", 10.0, now)

    seen.began(key("a"), now)
    seen.dropped(key("a"))
    seen.dropped(key("a"))

    assert speed(seen, "a", 10.0, now) == before


def test_the_time_of_very_short_jobs_convinces_nobody() -> None:
    seen = Observations()
    now = max(results(seen, peer, 0.5, 20) for peer in ("a", "b"))
    for peer in ("a", "b"):
        speed(seen, peer, 10.0, now)
    now = results(seen, "tiny", 0.002, 10, now)

    assert speed(seen, "tiny", 10.0, now).gflops < 20.0


def test_bytes_are_shown_where_there_are_no_items() -> None:
    seen = Observations()
    seen.began(key("a"), 0.0)
    seen.finished(key("a"), 0, 5_000, 1.0)

    assert speed(seen, "a", 10.0, 1.0).basis == "1 result of ours, 5 KB/s"


def a_cold_result(seen: Observations, peer: str, took_s: float, now: float) -> float:
    seen.began(key(peer), now)
    seen.finished(key(peer), 100, 1_000, now + took_s, is_cold=True)
    return now + took_s


def test_a_cold_start_does_not_make_a_peer_look_slow() -> None:
    seen = Observations()
    results(seen, "other", 1.0, 10)
    now = a_cold_result(seen, "cold", 9.0, 0.0)

    assert seen.speed(key("cold"), 10.0, now) is None, "it told nothing of its speed yet"
    now = results(seen, "cold", 1.0, 10, now)
    speed(seen, "other", 10.0, now)
    told = speed(seen, "cold", 10.0, now)

    assert told.gflops == pytest.approx(10.0, rel=0.05)
    assert told.results == 10
    assert "100 items/s" in told.basis


def test_who_says_after_every_job_that_it_was_cold_is_not_believed() -> None:
    seen = Observations()
    now = 0.0
    for _ in range(20):
        now = a_cold_result(seen, "liar", 9.0, now)

    assert speed(seen, "liar", 10.0, now).results == 19


def test_a_peer_that_was_idle_for_long_may_have_been_cold_again() -> None:
    seen = Observations()
    now = results(seen, "a", 1.0, 3) + COLD_AGAIN_S

    now = a_cold_result(seen, "a", 9.0, now)

    assert speed(seen, "a", 10.0, now).results == 3
