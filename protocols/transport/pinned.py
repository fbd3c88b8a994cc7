"""py-libp2p, pinned: which version was examined, and the names of it that we rely on beyond its
documentation.
"""

from __future__ import annotations

import logging
from importlib import import_module, metadata
from typing import Final

from protocols.errors import LocalProtocolError

VERSION: Final = "0.8.1"

# What is replaced, called or read from outside: (module, class, names).
_NAMES: Final = (
    ("libp2p.security.noise.transport", "Transport", ("secure_inbound", "secure_outbound")),
    ("libp2p.security.noise.io", "NoiseTransportReadWriter", ("encrypt", "decrypt")),
    (
        "libp2p.pubsub.pubsub",
        "Pubsub",
        ("push_msg", "notify_subscriptions", "_handle_new_peer_with_retry", "_handle_dead_peer"),
    ),
    ("libp2p.pubsub.pubsub", "Pubsub", ("stream_handler", "set_topic_validator", "manager")),
    (
        "libp2p.pubsub.gossipsub",
        "GossipSub",
        ("_do_px", "heartbeat", "manager", "_check_equivocation", "_periodic_security_cleanup"),
    ),
    ("libp2p.tools.timed_cache.last_seen_cache", "LastSeenCache", ("stop",)),
)


def check() -> None:
    """Raise ``LocalProtocolError`` unless the installed py-libp2p is the one that the guards were
    written for.
    """
    installed = metadata.version("libp2p")
    missing = [
        f"{module}.{owner}.{name}"
        for module, owner, names in _NAMES
        for name in names
        if not hasattr(getattr(import_module(module), owner, None), name)
    ]
    if installed != VERSION or missing:
        raise LocalProtocolError(
            f"py-libp2p {installed} is not the {VERSION} that the transport was written for",
            code="libp2p-changed",
            hint=f"install libp2p=={VERSION}",
            missing=missing,
        )


def quieten() -> None:
    """Silence py-libp2p's loggers: it reports every failed dial and every peer that hangs up at
    ERROR.

    What matters in those cases reaches our caller as an error and our own log as an event.
    """
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
