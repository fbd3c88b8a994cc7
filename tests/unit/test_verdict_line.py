"""What a command says about a verification, and how it exits."""

from __future__ import annotations

from typing import Any

import pytest

from node.cli.verdict import EXIT_DIFFERS, EXIT_UNVERIFIED, sentence, tell_verdict


def told(verdict: str, *peers: tuple[str, float | None], **changes: Any) -> dict[str, Any]:
    rows = [
        {
            "peer": f"peer{n}",
            "verdict": each,
            "difference": apart,
            "record_cid": None,
            "reason": "x",
        }
        for n, (each, apart) in enumerate(peers)
    ]
    usual = {"verdict": verdict, "tolerance": 1e-5, "wanted": 2, "peers": rows}
    return {**usual, "outvoted": [], "disputed": [], "reason": None, **changes}


def test_agreement_is_one_line_with_its_figures_and_no_failure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_verdict(
        {"verification": told("agreed", ("agreed", 1e-7), ("agreed", 2e-7))}, as_json=False
    )

    assert capsys.readouterr() == (
        "",
        "agreed: 2 of 2 other peers agree (largest difference 2e-07, tolerance 1e-05)\n",
    )


@pytest.mark.parametrize(
    ("verdict", "status"), [("differs", EXIT_DIFFERS), ("unverified", EXIT_UNVERIFIED)]
)
def test_anything_else_exits_otherwise_also_for_machines(
    verdict: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        tell_verdict({"verification": told(verdict)}, as_json=True)

    assert exited.value.code == status
    assert capsys.readouterr() == ("", "")


def test_who_is_off_and_why_fewer_did_are_told() -> None:
    line = sentence(
        told(
            "differs",
            ("agreed", 0.0),
            ("differs", 0.4),
            outvoted=["peer1"],
            reason="nobody is left",
        )
    )

    assert line == (
        "differs: 1 of 2 other peers agree (largest difference 0.4, tolerance 1e-05); "
        "peer1 differs (x); outvoted: peer1; nobody is left"
    )


def test_nothing_is_said_where_nothing_was_asked(capsys: pytest.CaptureFixture[str]) -> None:
    tell_verdict({"verification": None}, as_json=False)
    tell_verdict({}, as_json=False)

    assert capsys.readouterr() == ("", "")
