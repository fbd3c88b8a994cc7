"""Everything that this aggregator can be asked, as values that JSON can hold; keys are stable.

The same answers come from a running daemon and from a command that opened the state directory
itself: only ``Surroundings`` differs, for a command sees nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, TypeVar

import msgspec
import trio

from aggregator import excerpts
from aggregator.ancestry import Ancestry, Question, Reach
from aggregator.audit import MAX_SHOWN_MISSING, Audit
from aggregator.checkpoints import Checkpoints, vouched_told
from aggregator.damaged import counted as counts_of, held_told
from aggregator.errors import NotFoundError
from aggregator.evidence import shown_of
from aggregator.explain import explain
from aggregator.intake import Intake
from aggregator.lineage import MAX_DEPTH, MAX_RECORDS, trace
from aggregator.losses import NOTHING_LOST, Losses, Stated, awaited, lost_told
from aggregator.makers import Maker, find_makers
from aggregator.relatives import MAX_PAGE, Asked, bodiless, page_of, paths_of, unmade
from aggregator.store import Store
from aggregator.surroundings import Surroundings
from aggregator.told import group_told, issues_from, issues_told, reports_told, variant_told
from peer.cids import parse_cid
from peer.cli import counted
from peer.copies import EntryAt
from peer.evidence import verified
from peer.excerpts import reader_of
from peer.exporting import Sources, mesh_named, redaction_told
from peer.feeds import Feeds
from peer.identity import Identity
from peer.index import Index
from peer.journal import Journal
from peer.redactor import Redactor
from protocols.checkpoint import CHECKPOINT_KIND
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.keys import peer_id_of
from protocols.membership import FILER
from protocols.report import RECORD_KIND
from protocols.tombstone import AGGREGATOR, Redactions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answers:
    """One aggregator's answers. Those that are methods with ``async`` ask the index."""

    identity: Identity
    journal: Journal
    feeds: Feeds
    index: Index[Store]
    intake: Intake
    ancestry: Ancestry
    redactor: Redactor
    checkpoints: Checkpoints
    losses: Losses

    async def status(self, around: Surroundings) -> dict[str, Any]:
        """Return what this aggregator is, holds and sees."""
        membership = self.identity.member
        roles = membership.certificate.roles
        redacted = self._redactions.named()
        stated = await self.losses.known()
        counts, absent = await counts_of(self.index, self.feeds, stated)
        filers = [self.identity.peer_id] if FILER in roles else around.filers
        return {
            "peer": self.identity.peer_id,
            "mesh": peer_id_of(membership.mesh),
            "roles": list(roles),
            "is_filer": FILER in roles,
            "filer": filers[0] if filers else None,
            "is_running": around.is_running,
            "addresses": around.addresses,
            "connected": around.connected,
            **self.standing(stated),
            "quarantined": self.feeds.quarantined,
            **held_told(counts, absent),
            "damaged_records": absent.damaged.records,
            "damaged_bundles": absent.damaged.bundles,
            "lost_records": lost_told(stated)["lost_records"],
            "reports": counts.reports,
            "missing": counts.missing,
            "redacted": len(redacted),
            "without_effect": self._redactions.without_effect,
            "absent": self.feeds.bodies.lacking_count,
            "refused_absent": self.feeds.refused_absent,
            "open_redactions": self._redactions.open_count,
            "excessive_redactors": len(self._redactions.excessive),
            "checkpoints": await self.vouched(),
            "exchange": around.exchange,
            "groups": len(self.intake.groups),
            "issues": len(self.issues()),
            "journal_bytes": self.journal.size,
            "journal_disk_bytes": self.journal.disk_bytes,
            "journal_segments": self.journal.segments,
            "index_lag_bytes": self.index.lag_bytes,
        }

    async def vouched(self) -> list[dict[str, Any]]:
        """Return the latest checkpoint of each aggregator, and whether we hold what it vouches
        for.
        """
        latest = await self.checkpoints.latest()
        roster = self.intake.findings.roster
        counted = (v for v in latest.values() if roster.may_state(v.feed, CHECKPOINT_KIND))
        return [vouched_told(each, self.feeds) for each in sorted(counted)]

    async def checkpoint(self) -> dict[str, Any]:
        """Sign what is held now, if anything came since the last time."""
        made = await self.checkpoints.make()
        last = made or (await self.checkpoints.latest()).get(self.feeds.key.public)
        if last is None:
            raise CoveyError("there is nothing to vouch for yet", code="nothing-held")
        return {"is_new": made is not None, **vouched_told(last, self.feeds)}

    def standing(self, lost: Stated = NOTHING_LOST) -> dict[str, Any]:
        """Return where each feed stands; two aggregators with one state root hold the same. Nobody
        waits for what is ``lost``.
        """
        holes = awaited(self.feeds.holes, lost)
        return {
            "state_root": str(self.feeds.state_root()),
            "feeds": [
                {
                    "peer": peer_id_of(head.feed),
                    "epoch": head.epoch,
                    "first_sequence": head.first_sequence,
                    "next_sequence": head.next_sequence,
                    "header": str(head.header),
                }
                for head in sorted(self.feeds.heads())
            ],
            "holes": len(holes),
            "awaited": sum(end - first for ranges in holes.values() for first, end in ranges),
            "forks": len(self.feeds.forks),
        }

    async def missing(self) -> list[dict[str, str]]:
        """Return records that others name and that have not arrived, nor are lost for good."""
        known = [*self._redactions.named(), *(await self.losses.known()).records]
        rows = await self.index.ask(lambda store: store.missing(MAX_SHOWN_MISSING, known))
        return [
            {"cid": str(CID(row.cid)), "what": row.what, "needed_by": str(CID(row.needed_by))}
            for row in rows
        ]

    async def lineage(
        self, text: str, depth: int = MAX_DEPTH, limit: int = MAX_RECORDS
    ) -> dict[str, Any]:
        """Return what made an output, each record verified from the journal's bytes just now."""
        cid = parse_cid(text)
        redactions = self._redactions

        def answer(store: Store) -> dict[str, Any]:
            if redactions.of(cid) is not None and not store.records([cid]):
                raise self._erased(cid)
            closure = trace(store, cid, depth=min(depth, MAX_DEPTH), limit=min(limit, MAX_RECORDS))
            entry_at = reader_of(self.journal, self.feeds.suspect)
            rows = closure.records.values()
            answer = explain(closure, verified(entry_at, store, rows, closure.links))
            self._tell_missing(answer, store, entry_at)
            return answer

        return await self._unless_gone(lambda: self.index.ask(answer))

    def _tell_missing(self, answer: dict[str, Any], store: Store, entry_at: EntryAt) -> None:
        """Say of what a lineage lacks why it was redacted, and which redacted records made it."""
        lacking = [CID.parse(each["cid"]) for each in answer["missing"]]
        makers = find_makers(lacking, self._redactions)(store)
        why = {cid: each for cid in lacking if (each := self._redactions.of(cid)) is not None}
        redactions = {*why.values(), *(maker.redaction for maker in makers)}
        shown = shown_of(entry_at, store, redactions)
        for cid, told in zip(lacking, answer["missing"], strict=True):
            redaction = why.get(cid)
            told["redacted"] = redaction and {
                **redaction_told(redaction),
                "is_verified": redaction in shown,
            }
            made = (maker for maker in makers if maker.entity == cid)
            told["makers"] = [each.verified(each.redaction in shown) for each in made]
        answer["verified"] &= shown.issuperset(redactions)

    def _redaction_told(self, cid: CID) -> dict[str, Any] | None:
        redaction = self._redactions.of(cid)
        return None if redaction is None else redaction_told(redaction)

    def _erased(self, cid: CID) -> CoveyError:
        """Return the error for a question about a record of which nothing is left but why."""
        redaction = self._redactions.of(cid)
        assert redaction is not None
        at = redaction_told(redaction)["at"]
        return CoveyError(
            f"record {cid} was redacted by {peer_id_of(redaction.by)} at {at}: {redaction.reason}",
            code="redacted",
            hint=f"`covey-aggregator verify {cid}` checks what is left of it",
        )

    async def _why_gone(self, cids: set[bytes]) -> dict[bytes, dict[str, Any]]:
        """Return why those of these CIDs were redacted of which no body is here."""
        told = {each: self._redaction_told(CID(each)) for each in cids} if self._redactions else {}
        why = {cid: each for cid, each in told.items() if each is not None}
        if not why:
            return {}
        here = await self.index.ask(lambda store: {row.cid for row in store.records(why)})
        return {cid: each for cid, each in why.items() if cid not in here}

    async def _unless_gone(self, ask: Callable[[], Awaitable[T]], *ends: bytes) -> T:
        """Ask; whoever asks about a record that was redacted and that nothing names is told so."""
        try:
            return await ask()
        except NotFoundError as error:
            for cid in await self._why_gone(set(ends)):
                raise self._erased(CID(cid)) from None
            if (count := len(self._redactions.named())) and error.code == "unknown-cid":
                redacted = f"{counted(count, 'record')} were redacted, and may have named it"
                raise NotFoundError(
                    error.message, code=error.code, hint=f"{error.hint}; {redacted}"
                ) from error
            raise

    async def relatives(self, asked: Asked) -> dict[str, Any]:
        """Return what something came from, or what came from it, a page at a time."""
        await self.index.catch_up()
        question = asked.question
        ends = () if question.is_author else (question.start,)
        page = await self._unless_gone(
            lambda: self.ancestry.page(question, asked.limit, asked.cursor), *ends
        )
        redacted = await self._why_gone(bodiless(page.nodes) | set(ends))
        ended = unmade(page.nodes) if page.nodes or asked.cursor else set(ends)
        makers = await self._makers(ended) if asked.is_up else []
        # 60 ms for 10,000
        return await trio.to_thread.run_sync(page_of, asked, page, redacted, makers)

    async def paths(self, text: str, origin: str, depth: int, limit: int) -> dict[str, Any]:
        """Return the ways by which one CID came from another, the shortest first."""
        await self.index.catch_up()
        ends = parse_cid(text), parse_cid(origin)
        found, is_cut = await self._unless_gone(
            lambda: self.ancestry.paths(*ends, depth=depth, limit=limit), *ends
        )
        redacted = await self._why_gone(bodiless(chain.from_iterable(found)))
        makers = [] if found else await self._makers_above(ends[0], depth)
        return paths_of(ends, (found, is_cut), redacted, makers)

    async def _makers_above(self, start: CID, depth: int) -> list[Maker]:
        """Return the redacted records at which the ways up from ``start`` end."""
        if not len(self._redactions):
            return []
        above = await self.ancestry.page(Question(start, Reach(True, depth)), MAX_PAGE)
        return await self._makers({start, *unmade(above.nodes)})

    async def _makers(self, entities: set[bytes]) -> list[Maker]:
        if not entities or not len(self._redactions):
            return []
        return await self.index.ask(find_makers(entities, self._redactions))

    def groups(self) -> list[dict[str, Any]]:
        """Return every group, the one seen last first."""
        return [group_told(group) for group in self.intake.groups]

    async def group(self, group_id: str) -> dict[str, Any]:
        """Return one group with its variants and its latest reports."""
        found = next((g for g in self.intake.groups if g.id == group_id), None)
        if found is None:
            raise NotFoundError(
                f"there is no group {group_id}",
                code="unknown-group",
                hint="`covey-aggregator groups list` names them",
            )
        rows = await self.index.ask(lambda store: store.records_since(0, (RECORD_KIND,)))
        reports = await trio.to_thread.run_sync(reports_told, found, rows)
        faults = self.intake.findings.faults.by_fingerprint
        return {
            **group_told(found),
            "sample": msgspec.to_builtins(found.sample.report),
            "variants": [variant_told(faults[each]) for each in found.fingerprints],
            "latest": reports,
        }

    def issues(self) -> list[dict[str, Any]]:
        """Return every issue that any aggregator of the mesh filed, by number."""
        return issues_told(self.intake.findings, self.intake.groups)

    async def check(
        self, around: Surroundings, *, is_loss_accepted: bool = False
    ) -> dict[str, Any]:
        """Say what is wrong with journal or index; see ``Audit``."""
        audit = Audit(self.journal, self.feeds, self.index, self.losses)
        return await audit.run(around, is_loss_accepted=is_loss_accepted)

    async def export(
        self, form: str, lineage: str | None, since: str, out: BinaryIO
    ) -> dict[str, Any]:
        """Write the lineage of a CID to a file in one of the export formats, or else everything
        since a moment; return a summary.
        """
        cid = parse_cid(lineage) if lineage else None
        rows = excerpts.lineage(cid, self._redactions) if cid else excerpts.since(since)
        return await self._sources.export(form, rows, out, cid)

    async def verify(self, text: str, is_deep: bool, mesh: str = "") -> dict[str, Any]:
        """Check the signed bytes of a record, or of the records nearest to an entity; or of all in
        its lineage; and whether their authors were members of ``mesh`` if that is named.
        """
        cid, root = parse_cid(text), mesh_named(mesh)
        rows = excerpts.lineage(cid, self._redactions, None if is_deep else 1)
        return await self._sources.verify(rows, cid, root)

    async def redact(self, texts: Sequence[str], reason: str) -> list[dict[str, Any]]:
        """Have the bodies of records erased, here and at whoever else holds them, and say which
        issues were filed from each: they stay as they are.
        """
        cids = [parse_cid(text) for text in texts]
        await self.intake.catch_up()
        rows = await self.index.ask(lambda store: store.records(cids))
        filed = self.issues()
        issues = {str(CID(row.cid)): issues_from([row], filed, self.intake.groups) for row in rows}
        told = await self.redactor.redact(cids, reason, AGGREGATOR)
        return [{**each, "issues": issues.get(each["cid"], [])} for each in told]

    @property
    def _sources(self) -> Sources:
        return Sources(
            self.index, self.journal, self.identity, self._redactions, self.feeds.suspect
        )

    @property
    def _redactions(self) -> Redactions:
        return self.feeds.bodies.redactions

    async def rebuild(self) -> dict[str, Any]:
        """Make the index anew from the journal, and say what it holds."""
        await self.index.rebuild()
        await self.intake.take_in()
        stated = await self.losses.known()
        return {
            **held_told(*await counts_of(self.index, self.feeds, stated)),
            "groups": len(self.intake.groups),
            "state_root": str(self.feeds.state_root()),
        }
