"""What records can be written out as: a file an exporter, and one line each in ``FORMATS``.

An exporter is a module with ``write(excerpt, out)``, which writes one excerpt to a seekable binary
file. It is imported when it is asked for, since some bring large libraries.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, TypeAlias

from protocols.errors import CoveyError

if TYPE_CHECKING:
    from peer.excerpts import Excerpt


class Format(NamedTuple):
    """Where an exporter is, and what it makes, in a few words."""

    module: str
    about: str


FORMATS: Final = {
    "car": Format("peer.exports.car", "records and the signatures over them, to be verified"),
    "in-toto": Format("peer.exports.in_toto", "signed SLSA provenance of all that was generated"),
    "openlineage": Format("peer.exports.openlineage", "run events, a line each, for its servers"),
    "parquet": Format("peer.exports.parquet", "a table, for DuckDB, Spark and others"),
    "prov-json": Format("peer.exports.prov_json", "a W3C PROV document"),
}

Write: TypeAlias = "Callable[[Excerpt, BinaryIO], None]"
"""Writes all of an excerpt; what is in the file after an error is of no use."""


def writer(name: str) -> Write:
    """Return the exporter of a format; raise ``CoveyError`` if there is none."""
    if name not in FORMATS:
        raise CoveyError(
            f"there is no export format {name!r}",
            code="bad-input",
            hint=f"formats are {', '.join(FORMATS)}",
        )
    return importlib.import_module(FORMATS[name].module).write
