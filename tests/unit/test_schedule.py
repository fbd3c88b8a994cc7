"""What is due when, against a list that is searched."""

from __future__ import annotations

import math

from hypothesis import given, strategies as st

from node.schedule import Schedule

NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])
MOMENTS = st.integers(0, 20).map(float)
ACTS = st.one_of(
    st.tuples(st.just("put"), NAMES, MOMENTS),
    st.tuples(st.just("hasten"), st.integers(0, 3), MOMENTS),
    st.tuples(st.just("pop"), st.none(), MOMENTS),
)


@given(st.lists(ACTS, max_size=40))
def test_each_name_is_due_once_at_its_last_moment(acts: list[tuple[str, object, float]]) -> None:
    schedule, expected = Schedule(), dict[bytes, float]()
    for act, subject, moment in acts:
        if act == "put" and isinstance(subject, bytes):
            schedule.put(subject, moment)
            expected[subject] = moment
        elif act == "hasten" and isinstance(subject, int):
            hastened = schedule.hasten(moment, subject)
            later = sorted((at, name) for name, at in expected.items() if at > moment)[:subject]
            assert sorted(hastened) == sorted(name for _, name in later)
            expected |= dict.fromkeys(hastened, moment)
        else:
            name = schedule.pop(moment)
            due = sorted((at, name) for name, at in expected.items() if at <= moment)
            assert name == (due[0][1] if due else None)
            if name is not None:
                del expected[name]
        assert schedule.next_at == min(expected.values(), default=math.inf)
