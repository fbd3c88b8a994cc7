"""A process that files one fault at GitHub and ends, unless it is killed:
``python -m tests.support.github.process HOME API WITH_REPORTS``.
"""

from __future__ import annotations

import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import trio

from aggregator.config import Filing
from aggregator.core import opened
from aggregator.desk import Desk
from aggregator.policy import Mesh
from aggregator.trackers import InThread
from aggregator.trackers.github import GithubTracker
from peer.effects import system_effects
from peer.home import Home
from peer.identity import Identity
from peer.recorder import Recorder
from peer.service import running
from protocols.membership import AGGREGATOR, FILER
from tests.support.github.client import AT_ONCE
from tests.support.github.repository import REPO, TOKEN
from tests.support.home import Author, aggregator_home
from tests.support.members import key_of
from tests.support.reports import START_US, a_report


async def main(path: Path, api: str, with_reports: bool) -> None:
    """File the fault; ``with_reports`` makes the home and the reports first."""
    if with_reports:
        aggregator_home(path, None, AGGREGATOR, FILER)
    home, effects = Home(path, "aggregator.toml"), system_effects()
    identity = Identity.load(path)
    async with opened(home, identity, effects) as answers:
        recorder = Recorder(answers.feeds, effects)
        desk = Desk(answers.intake, identity, recorder, Filing(age_s=0), lambda: Mesh(True, 4))
        with closing(GithubTracker(REPO, api, TOKEN, AT_ONCE)) as github:
            github.settle_s = 0.0  # that GitHub does at once what it does at all
            if with_reports:
                author = Author(key_of(1))
                for count in range(3):
                    author.report(a_report(time_us=START_US + count))
                await answers.feeds.add(author.cut())
                await answers.intake.catch_up()
            services = (answers.feeds.run, answers.intake.run)
            async with running(*services, partial(desk.run, [InThread(github)])):
                while not answers.issues():
                    await answers.intake.changed.wait()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1")
