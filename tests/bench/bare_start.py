"""Children that do one thing and say so: ``first``, an embedding by bare torch from nothing;
``idle``, only the imports that a peer cannot do without.
"""

from __future__ import annotations

import sys

from tests.bench.processes import serve


def first() -> None:
    from tests.bench.bare_torch import load

    encoder = load()
    encoder.encode(encoder.tokenise(["one text"])[0])


def idle() -> None:
    import cbor2  # noqa: F401
    import duckdb  # noqa: F401
    import msgspec  # noqa: F401

    from protocols.keys import SigningKey
    from protocols.transport import open_transport

    open_transport(SigningKey.from_seed(b"i" * 32), [])


if __name__ == "__main__":
    {"first": first, "idle": idle}[sys.argv[1]]()
    serve(lambda: None, {"done": sys.argv[1]})
