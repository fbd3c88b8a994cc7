"""How results are laid out for people."""

from __future__ import annotations

from peer.cli import listing, table

ROWS = [
    {"job": "ab", "waits_for": "no worker took the job: " + "a long reason " * 20},
    {"job": "c"},
]
COLUMNS = {"job": "JOB", "waits_for": "WAITS FOR"}


def test_values_inside_of_values_are_indented_lines() -> None:
    told = listing(
        {
            "job_id": "ab",
            "result": {"worker": "w", "timings": {"run_ms": 1.5}, "execution": {}},
            "peers": [{"peer": "a"}, {"peer": "b"}],
            "models": ["x", "y"],
            "upstream": None,
        },
        width=10,
    )

    assert told.splitlines() == [
        "job id    ab",
        "result",
        "  worker    w",
        "  timings",
        "    run ms    1.5",
        "  execution -",
        "peers",
        "  1",
        "    peer      a",
        "  2",
        "    peer      b",
        "models    x, y",
        "upstream  -",
    ]


def test_what_would_act_on_a_terminal_is_left_out_of_a_listing() -> None:
    assert "\x1b" not in listing({"a\x1b[2J": {"b": "\x1b[31m", "c": ["\x1b]0;"]}})


def test_the_last_column_is_cut_to_the_width_and_marked() -> None:
    lines = table(ROWS, COLUMNS, empty="", width=60).splitlines()

    assert all(len(line) <= 60 for line in lines)
    assert lines[1].endswith("…")
    assert lines[2] == "c    -"
    assert not table(ROWS, COLUMNS, empty="").splitlines()[1].endswith("…")
