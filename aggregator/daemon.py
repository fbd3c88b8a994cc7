"""The aggregator's daemon: every part chosen once, started in order, stopped in reverse."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from importlib.metadata import version

import trio

from aggregator.api import Api
from aggregator.config import AggregatorConfig, Github, Metrics as MetricsConfig, read_token
from aggregator.core import opened
from aggregator.desk import Desk
from aggregator.metrics import Metrics
from aggregator.policy import Mesh
from aggregator.seeking import Seeking
from aggregator.surroundings import Surroundings
from aggregator.trackers import InThread, Tracker
from aggregator.trackers.folder import FolderTracker
from peer import control, logs
from peer.adverts import Offering
from peer.config import load
from peer.effects import Effects, system_effects
from peer.exchange import Exchange, policy_of
from peer.feeds import Feeds
from peer.finder import in_index
from peer.home import Home
from peer.identity import Identity
from peer.member import check_membership
from peer.presence import Network, Presence
from peer.recorder import Recorder
from peer.service import running, settle, wait_for_stop
from peer.showing import Showing
from protocols.membership import AGGREGATOR, FILER

log = logging.getLogger(__name__)


def run(home: Home, environ: Mapping[str, str]) -> None:
    """Run the aggregator of ``home`` until SIGTERM or SIGINT; raise ``CoveyError`` if it cannot."""
    config = load(AggregatorConfig, home.config, environ).values
    logs.configure(config.log.level)
    with trackers(home, config.github, environ) as chosen:
        trio.run(main, home, config, chosen, system_effects())


@contextmanager
def trackers(
    home: Home, config: Github, environ: Mapping[str, str]
) -> Generator[tuple[Tracker, ...]]:
    """Choose where issues go: always to files in the home, and to GitHub where that is set up."""
    folder = InThread(FolderTracker(home.path))
    if not config.repo:
        yield (folder,)
        return
    from aggregator.trackers.github import GithubTracker  # 20 MB that few aggregators need

    with closing(GithubTracker(config.repo, config.api, read_token(config, environ))) as github:
        yield (folder, InThread(github))


async def main(
    home: Home, config: AggregatorConfig, chosen: tuple[Tracker, ...], effects: Effects
) -> None:
    """Run an aggregator that files in the chosen trackers, until told to stop; then stop accepting,
    flush and return.
    """
    async with home.locked():
        identity = Identity.load(home.path)
        check_membership(identity, effects)
        identity.next_boot()
        async with opened(home, identity, effects) as answers:
            feeds, intake = answers.feeds, answers.intake
            presence = Presence(identity, _network(config), feeds, effects, _describe(identity))
            directory, transport = presence.directory, presence.transport
            find = in_index(answers.index, feeds.key.public)
            exchange = Exchange(transport, feeds, policy_of(directory, follows=True), find)
            seeking = Seeking(answers.index, answers.feeds, exchange, effects)
            presence.greeter.on_met(exchange.peer_up)
            transport.on_connection(exchange.connection_changed)
            recorder = Recorder(feeds, effects)
            desk = Desk(
                intake, identity, recorder, config.filing, lambda: Mesh(True, len(directory))
            )
            api = Api(
                answers,
                Metrics(),
                partial(_around, presence, seeking, exchange, feeds),
                exchange.refresh,
                desk.sync,
            )
            serving = partial(control.serve, api.control(), home.control_socket)
            async with (
                running(feeds.run),
                presence.started(),
                running(exchange.run, intake.run, answers.ancestry.run, seeking.run),
                running(Showing(recorder, identity).run),  # or what it states would not count
                running(answers.redactor.run, answers.checkpoints.run),
                running(partial(desk.run, chosen)),
                _watching(api, config.metrics),
                running(serving),
            ):
                log.info(
                    "aggregator up",
                    extra={"peer": identity.peer_id, "listening": transport.addresses},
                )
                settle()
                await wait_for_stop()
                log.info("aggregator stopping")
            await feeds.cut_all()
        log.info("aggregator down")


def _network(config: AggregatorConfig) -> Network:
    return Network(
        host=config.listen.host,
        port=config.listen.port,
        bootstrap=config.discovery.bootstrap,
        uses_mdns=config.discovery.mdns,
    )


def _describe(identity: Identity) -> Callable[[], Offering]:
    roles = identity.member.certificate.roles
    software = f"covey {version('covey')}"
    return lambda: Offering(roles=roles, addresses=(), software=software)


def _around(presence: Presence, seeking: Seeking, exchange: Exchange, feeds: Feeds) -> Surroundings:
    directory = presence.directory
    return Surroundings(
        is_running=True,
        addresses=presence.transport.addresses,
        connected=sorted(presence.transport.connected()),
        filers=sorted(entry.peer_id for entry in directory.with_role(FILER)),
        aggregators=sorted(entry.peer_id for entry in directory.with_role(AGGREGATOR)),
        asked=exchange.answered,
        asked_at=feeds.quarantined,
        exchange=seeking.status(),
    )


@asynccontextmanager
async def _watching(api: Api, config: MetricsConfig) -> AsyncGenerator[None]:
    """Serve ``/healthz`` and ``/metrics`` over TCP while the block runs, where a port is set."""
    if not config.port:
        yield
        return
    bind = f"{config.host}:{config.port}"
    async with running(partial(control.serve_http, api.watching(config.host), bind)):
        yield
