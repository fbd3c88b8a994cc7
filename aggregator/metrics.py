"""What Prometheus may know of an aggregator: how much it holds, how far behind it is, who is there.

No metric carries a peer id, a CID or a message: labels are few and bounded.
"""

from __future__ import annotations

from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from aggregator.intake import Findings

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

FROM_STATUS: Final = {
    "records": "Records that are held, each counted once",
    "bundles": "Signed bundles that are held",
    "damaged_records": "Records that lie in damaged bytes of the journal and nowhere else",
    "reports": "Error reports that have arrived",
    "missing": "Records that others name and that have not arrived",
    "groups": "Groups of reports",
    "issues": "Issues that were filed for groups, by any aggregator",
    "holes": "Ranges of feeds that are missing between others",
    "awaited": "Records in those ranges",
    "forks": "Feeds whose key signed two histories",
    "quarantined": "Bundles that turned out to be damaged on the disk since the start",
    "refused_absent": "Bundles refused since the start because of the bodies that they lacked",
    "open_redactions": "How often tombstones name records that are not here, or not erased yet",
    "excessive_redactors": "Authors who redact more records than count of one",
    "journal_bytes": "Size of the journal",
    "index_lag_bytes": "How far the index is behind the journal",
}
"""Keys of the status that are numbers already."""

FROM_EXCHANGE: Final = {
    "dangling": ("sought_records", "Missing records that peers are asked for by name"),
    "tries": ("seek_tries", "How often a missing record was asked for"),
    "found": ("sought_records_found", "Missing records that came by their names"),
    "given_up": ("sought_records_given_up", "Missing records that nobody had in all tries"),
    "put_off_bundles": (
        "put_off_bundles",
        "Bundles of authors in a hurry that were left where they were, and asked for later",
    ),
    "slowed_s": ("slowed_seconds", "How long authors in a hurry were made to wait, in all"),
}
"""Keys of the status's ``exchange``, and how their gauges are called."""


class Metrics:
    """A registry of our own, filled when asked: counts are the journal's, not this process's."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges = {key: self._gauge(key, text) for key, text in FROM_STATUS.items()}
        self._exchange = {key: self._gauge(*told) for key, told in FROM_EXCHANGE.items()}
        self._slowed = self._gauge("slowed_authors", "Authors that are made to wait now")
        self._feeds = self._gauge("feeds", "Feeds of which something has arrived")
        self._connected = self._gauge("connected_peers", "Peers with a live connection")
        self._malformed = self._gauge(
            "malformed_records", "Records that are not what their kind says"
        )
        self._unheard = self._gauge(
            "unheard_statements", "Decisions and issue numbers of peers that have no such role"
        )
        self._dishonest = self._gauge(
            "dishonest_reports", "Reports that claim a fingerprint which they do not have"
        )

    def render(self, status: dict[str, Any], findings: Findings) -> bytes:
        """Return the text of one scrape."""
        for key, gauge in self._gauges.items():
            gauge.set(status[key])
        for key, gauge in self._exchange.items():
            gauge.set(status["exchange"].get(key, 0))
        self._slowed.set(len(status["exchange"].get("slowed", ())))
        self._feeds.set(len({head["peer"] for head in status["feeds"]}))
        self._connected.set(len(status["connected"]))
        self._malformed.set(findings.malformed)
        self._unheard.set(findings.unheard)
        self._dishonest.set(findings.faults.ignored.total())
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"covey_aggregator_{name}", text, registry=self._registry)
