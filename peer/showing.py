"""Shows this peer's own certificate in its feed: so that what it states counts (see
``protocols.roster``), and so that whoever is handed its records sees of which mesh it was a member.
"""

from __future__ import annotations

import logging

import trio

from peer.directory import Directory
from peer.identity import Identity
from peer.journal import JournalError
from peer.recorder import Recorder
from protocols.cid import CID
from protocols.keys import PeerId
from protocols.limits import MAX_DIRECTORY_PEERS, RENEW_CHECK_S
from protocols.membership import Certificate, Membership
from protocols.roster import CERTIFICATE_KIND, chain_attributes, shown_record

log = logging.getLogger(__name__)


async def show_certificate(recorder: Recorder, member: Membership) -> None:
    """Record our certificate, once, so that what we state counts everywhere."""
    await recorder.block(CERTIFICATE_KIND, chain_attributes(member))


class Showing:
    """Records each certificate that this peer gets."""

    def __init__(self, recorder: Recorder, identity: Identity) -> None:
        self._recorder = recorder
        self._identity = identity

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Show the present one, then say that it runs, and show the next ones soon after they were
        issued, until cancelled; what the disk does not take is tried again.
        """
        await self._show()
        task_status.started()
        while True:
            await trio.sleep(RENEW_CHECK_S)
            await self._show()

    async def _show(self) -> None:
        try:
            await show_certificate(self._recorder, self._identity.member)
        except JournalError as error:
            log.warning("certificate not shown yet", extra={"code": error.code})


class ShownBy:
    """Names the record by which a peer in ``directory`` shows its certificate: it has no nonce, so
    whoever was shown the certificate itself, at hello, can tell.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._named: dict[PeerId, tuple[Certificate, Certificate, CID]] = {}
        """As of the last time: making a name takes as long as half a job."""

    def __call__(self, peer: PeerId) -> CID | None:
        """Return the record's name; none for a peer that nobody knows."""
        entry = self._directory.get(peer)
        if entry is None:
            return None
        known = self._named.get(peer)
        own, issuers = entry.certificate, entry.issuer_certificate
        if known is None or known[0] is not own or known[1] is not issuers:
            cid = CID.of(shown_record(Membership(own, issuers)).encode())
            if len(self._named) >= MAX_DIRECTORY_PEERS:
                self._named.clear()
            known = self._named[peer] = own, issuers, cid
        return known[2]
