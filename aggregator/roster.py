"""Shows this aggregator's own certificate, so that what it states counts: see
``protocols.roster``.
"""

from __future__ import annotations

from peer.recorder import Recorder
from protocols.membership import Membership
from protocols.roster import CERTIFICATE_KIND


async def show_certificate(recorder: Recorder, member: Membership) -> None:
    """Record our certificate, once, so that what we state counts everywhere."""
    attributes = {
        "certificate": member.certificate.encode(),
        "issuer_certificate": member.issuer_certificate.encode(),
    }
    await recorder.block(CERTIFICATE_KIND, attributes)
