"""A member without the role cannot make an issue go away, whatever it records."""

from __future__ import annotations

from pathlib import Path

from aggregator.decisions import Decision, Filed, Intent, kind_of, to_attributes
from aggregator.groups import short
from protocols.membership import AGGREGATOR, FILER
from protocols.roster import CERTIFICATE_KIND
from tests.aggregator.test_aggregator import failing_author, up
from tests.support.home import Author, aggregator_home
from tests.support.members import TestMesh, key_of
from tests.support.memory import MemoryNetwork
from tests.support.reports import a_report

GROUP = short(a_report().fingerprint)
LIES = (
    Decision(action="ignore", group=GROUP, revision=1 << 40, time_us=1),
    Intent(group=GROUP, tracker="folder", time_us=1),
    Filed(group=GROUP, tracker="folder", number=666, where="nowhere", time_us=1),
)


def liar(mesh: TestMesh, *roles: str) -> Author:
    author = Author(key_of(66))
    member = mesh.membership(author.key, *roles)
    author.add_block(
        CERTIFICATE_KIND,
        certificate=member.certificate.encode(),
        issuer_certificate=member.issuer_certificate.encode(),
    )
    for lie in LIES:
        author.add(kind_of(lie), attributes=to_attributes(lie))
    return author


async def test_a_rogue_member_suppresses_no_issue(tmp_path: Path) -> None:
    mesh = TestMesh()
    async with up(aggregator_home(tmp_path, mesh, AGGREGATOR, FILER), MemoryNetwork()) as filer:
        await filer.answers.feeds.add(liar(mesh, "worker", "submitter", "observer").cut())
        await filer.answers.feeds.add(failing_author().cut())
        await filer.until(lambda: bool(filer.answers.issues()))
        [group] = filer.answers.groups()
        [issue] = filer.answers.issues()

        assert (group["status"], group["issue"], issue["number"]) == ("open", 1, 1)
        assert len(filer.issue_files()) == 1
        assert filer.answers.intake.findings.unheard == len(LIES)


async def test_an_aggregators_statements_count_whatever_way_its_certificate_came(
    tmp_path: Path,
) -> None:
    mesh = TestMesh()
    author = liar(mesh, AGGREGATOR, FILER)
    author.records = author.records[1:] + author.records[:1]  # the certificate last
    async with up(aggregator_home(tmp_path, mesh, AGGREGATOR), MemoryNetwork()) as other:
        await other.answers.feeds.add(author.cut())
        await other.answers.feeds.add(failing_author().cut())
        await other.settled()

        assert other.answers.groups()[0]["issue"] == 666
        assert other.answers.intake.findings.unheard == 0


async def test_an_aggregator_that_is_not_the_filer_may_decide_and_says_nothing_of_issues(
    tmp_path: Path,
) -> None:
    mesh = TestMesh()
    async with up(aggregator_home(tmp_path, mesh, AGGREGATOR, FILER), MemoryNetwork()) as filer:
        await filer.answers.feeds.add(liar(mesh, AGGREGATOR).cut())
        await filer.settled()

        assert filer.answers.intake.findings.unheard == 2
        assert len(filer.answers.intake.findings.decided) == 1
