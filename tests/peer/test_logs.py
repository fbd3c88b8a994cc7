from __future__ import annotations

import logging

from peer.logs import FieldsFormatter


def formatted(message: str, **fields: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", **fields})
    return FieldsFormatter().format(record)


def test_a_line_is_one_event_and_its_fields() -> None:
    line = formatted("node up", peer="12D3", jobs=3, note="two words")

    assert line.endswith('info node up peer=12D3 jobs=3 note="two words"')


def test_what_a_peer_sends_cannot_forge_a_line_or_speak_to_the_terminal() -> None:
    line = formatted("refused", why="no\n2026-01-01 info node up\x1b[2J\u202e")

    assert "\n" not in line
    assert line.isprintable()


def test_a_list_is_told_as_its_items() -> None:
    line = formatted("stopped", reasons=["no answer", "gone"], none=[], one=["silent"])

    assert line.endswith('stopped reasons="no answer; gone" none="" one=silent')
