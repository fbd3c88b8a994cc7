from hypothesis import given, strategies as st

from protocols.kept_outcomes import KeptOutcomes
from protocols.limits import MAX_KEPT_OUTCOMES, MAX_OUTCOME_BYTES
from protocols.session import JobKey


def key(submitter: str, number: int) -> JobKey:
    return (submitter, number.to_bytes(16, "big"))


def keep(kept: KeptOutcomes, submitter: str, numbers: range, size_bytes: int = 0) -> list[JobKey]:
    dropped: list[JobKey] = []
    for number in numbers:
        kept.add(key(submitter, number), size_bytes)
        dropped += kept.overflow()
    return dropped


def test_the_oldest_go_first_when_there_are_too_many() -> None:
    kept = KeptOutcomes()

    dropped = keep(kept, "a", range(MAX_KEPT_OUTCOMES + 3))

    assert dropped == [key("a", number) for number in range(3)]
    assert len(kept) == MAX_KEPT_OUTCOMES


def test_one_that_never_acknowledges_pushes_out_its_own_and_nobody_elses() -> None:
    kept = KeptOutcomes()
    keep(kept, "modest", range(10), size_bytes=1_000)

    by_number = keep(kept, "mute", range(2 * MAX_KEPT_OUTCOMES))
    by_size = keep(kept, "greedy", range(40), size_bytes=MAX_OUTCOME_BYTES // 10)

    assert {submitter for submitter, _ in by_number} == {"mute"}
    assert {submitter for submitter, _ in by_size} <= {"mute", "greedy"}
    assert kept.size_bytes <= MAX_OUTCOME_BYTES


def test_one_that_is_too_large_for_all_stays_until_another_comes() -> None:
    kept = KeptOutcomes()

    assert keep(kept, "a", range(1), MAX_OUTCOME_BYTES + 1) == []
    assert keep(kept, "b", range(1), 1) == [key("a", 0)]


def test_the_one_that_has_just_come_stays_though_its_submitter_keeps_the_most() -> None:
    kept = KeptOutcomes()
    for submitter in "abcd":
        keep(kept, submitter, range(2), MAX_OUTCOME_BYTES // 8)

    kept.add(key("new", 0), MAX_OUTCOME_BYTES // 2)
    dropped = list(kept.overflow(key("new", 0)))

    assert dropped == [key(submitter, 0) for submitter in "abcd"]


def test_what_is_wanted_now_stays_as_long_as_its_submitter_keeps_another() -> None:
    kept = KeptOutcomes(max_count=3)
    keep(kept, "a", range(3))
    wanted = {key("a", 0), key("a", 2)}

    dropped: list[JobKey] = []
    for number in (3, 4):
        kept.add(key("a", number), 0)
        dropped += kept.overflow(key("a", number), wanted.__contains__)

    assert dropped == [key("a", 1), key("a", 3)]
    kept.add(key("a", 5), 0)
    wanted |= {key("a", 4), key("a", 5)}
    assert list(kept.overflow(key("a", 5), wanted.__contains__)) == [key("a", 0)]


def test_who_wants_all_and_acknowledges_nothing_pushes_out_nobody_who_is_away() -> None:
    kept = KeptOutcomes(max_count=10)
    keep(kept, "away", range(3))

    dropped: list[JobKey] = []
    for number in range(20):
        kept.add(key("mute", number), 0)
        dropped += kept.overflow(key("mute", number), lambda each: each[0] == "mute")

    assert dropped == [key("mute", number) for number in range(13)]


def test_what_was_acknowledged_counts_no_more() -> None:
    kept = KeptOutcomes()
    keep(kept, "a", range(2), size_bytes=7)

    for _ in range(2):
        kept.remove(key("a", 0))

    assert (len(kept), kept.size_bytes) == (1, 7)


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.sampled_from([0, 1, MAX_OUTCOME_BYTES // 3, MAX_OUTCOME_BYTES]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_what_is_kept_and_what_was_dropped_are_all_that_there_was(
    steps: list[tuple[str, int, bool]],
) -> None:
    kept, sizes = KeptOutcomes(), dict[JobKey, int]()
    for number, (submitter, size_bytes, is_removed) in enumerate(steps):
        kept.add(key(submitter, number), size_bytes)
        sizes[key(submitter, number)] = size_bytes
        for dropped in kept.overflow():
            del sizes[dropped]
        if is_removed and sizes:
            oldest = next(iter(sizes))
            kept.remove(oldest)
            del sizes[oldest]

        assert len(kept) == len(sizes)
        assert kept.size_bytes == sum(sizes.values())
        assert kept.size_bytes <= MAX_OUTCOME_BYTES or len(kept) == 1
