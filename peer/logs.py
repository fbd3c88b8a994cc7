"""Log lines of both daemons: time, level, one event name, ``key=value`` fields, on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any, Final, cast

_PLAIN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """Appends the ``extra`` fields of a record as ``key=value``, quoted where they hold spaces; a
    list is told as its items.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback of an exception below it."""
        extra: dict[str, Any] = {k: v for k, v in record.__dict__.items() if k not in _PLAIN}
        fields = "".join(f" {key}={_quoted(value)}" for key, value in extra.items())
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line = _printable(f"{stamp} {record.levelname.lower()} {record.getMessage()}{fields}")
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def configure(level: str) -> None:
    """Send our log lines of at least ``level`` to stderr, and other libraries' warnings with
    them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldsFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("covey", "protocols", "peer", "node", "aggregator"):
        logging.getLogger(name).setLevel(level.upper())


def _printable(text: str) -> str:
    """One line without control characters: what a peer sends must not forge lines of its own."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _quoted(value: object) -> str:
    is_list = isinstance(value, (list, tuple))
    text = "; ".join(map(str, cast("Sequence[object]", value))) if is_list else str(value)
    return f'"{text}"' if " " in text or not text else text
