"""The node's daemon: every part chosen once, started in order, stopped in reverse."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from node import benchmarks
from node.admission import Admission
from node.api.control import ControlApi
from node.api.token import load_or_create
from node.arrivals import Arrivals
from node.backends import Backends
from node.benchmarks.echo import EchoServer
from node.benchmarks.runners import BenchRunners
from node.carrier import Carrier
from node.config import NodeConfig, Runners
from node.devices import ComputeDevice
from node.kept_jobs import KeptJobs
from node.ledger import JobLedger
from node.memory import Memory
from node.models import ModelStore
from node.offering import Offerer
from node.placement import Placement
from node.runner.sandbox import Sandbox
from node.runners import RunnerPool
from node.sessions import Sessions
from node.store import Store
from node.submissions import Reports, Submissions
from node.submit import Submitter
from node.upstream.pool import Upstream
from node.upstream.token import read_token
from node.watching import Watching
from node.worker import Worker
from node.worker_bundles import WorkerBundles
from peer import control, logs
from peer.capture import origin
from peer.config import load
from peer.directory import Directory
from peer.effects import Effects, system_effects
from peer.exchange import Exchange, policy_of
from peer.feeds import Feeds
from peer.finder import in_index
from peer.home import Home
from peer.identity import Identity
from peer.index import Index
from peer.join import Admitter, open_admitter
from peer.journal import Journal
from peer.member import check_membership
from peer.presence import Network, Presence
from peer.recorder import Recorder
from peer.redactor import Redactor
from peer.service import running, settle, wait_for_stop
from peer.showing import ShownBy
from protocols.errors import Refused
from protocols.job import JOB_ID_BYTES
from protocols.limits import DRAIN_S
from protocols.membership import ADMITTER, SUBMITTER

log = logging.getLogger(__name__)

LAST_LINES_S: Final = 0.25  # for clients to read the results that have just come


@dataclass(slots=True)
class Node:
    """The parts of a running node, for its API."""

    config: NodeConfig
    home: Home
    effects: Effects
    identity: Identity
    journal: Journal
    feeds: Feeds
    index: Index[Store]
    presence: Presence
    models: ModelStore
    runners: RunnerPool
    upstream: Upstream
    offerer: Offerer
    recorder: Recorder
    ledger: JobLedger
    redactor: Redactor
    submissions: Submissions
    carrier: Carrier
    worker: Worker
    exchange: Exchange
    worker_bundles: WorkerBundles
    watching: Watching
    admitter: Admitter | None
    nursery: trio.Nursery
    """Where what a client asked for runs; it ends before everything else."""

    def check_may_submit(self) -> None:
        """Raise ``Refused`` where every worker would refuse a job of this node's, and say why."""
        roles = self.identity.member.certificate.roles
        if self.presence.gatekeeper.is_revoked:
            raise Refused(
                "this node was put out of the mesh",
                code="revoked",
                hint="join as a new peer: another COVEY_HOME, a new ticket",
            )
        if SUBMITTER not in roles:
            raise Refused(
                f"this node may not submit jobs: it is {', '.join(roles)}",
                code="not-submitter",
                hint="join again with a ticket of `covey ticket --role submitter`",
            )


def run(home: Home, environ: Mapping[str, str]) -> None:
    """Run the node of ``home`` until SIGTERM or SIGINT; raises ``CoveyError`` when it cannot."""
    config = load(NodeConfig, home.config, environ).values
    logs.configure(config.log.level)
    token = read_token(home.path, environ) if config.upstream.url else ""
    trio.run(main, home, config, system_effects(), token)


async def main(home: Home, config: NodeConfig, effects: Effects, upstream_token: str) -> None:
    """Run a node until told to stop; then drain, flush and return."""
    async with started(home, config, effects, upstream_token):
        await wait_for_stop()
    log.info("node down")


@asynccontextmanager
async def started(
    home: Home, config: NodeConfig, effects: Effects, upstream_token: str = ""
) -> AsyncGenerator[Node]:
    """Run a node, control API included, while the block runs; then drain and flush."""
    async with home.locked():
        identity = Identity.load(home.path)
        check_membership(identity, effects)
        device = ComputeDevice(config.runners.device)
        models = ModelStore(home.models, device, trio.current_time)
        runners = _runners(models, effects, config.runners, device)
        identity.next_boot()
        memory = Memory.open(home, identity, config, effects)
        journal, feeds, index = memory.journal, memory.feeds, memory.index
        upstream = Upstream(config.upstream, upstream_token, identity.peer_id)
        backends = Backends(models, runners, upstream)
        offerer = Offerer(
            home.path, identity.member, backends, memory.recorder, runners.sandbox.level, device
        )
        presence = Presence(identity, _network(config), feeds, effects, offerer.offering)
        directory, transport = presence.directory, presence.transport
        runners.capabilities = lambda: directory.own_capabilities
        ledger = JobLedger(memory.recorder, origin("node", offerer.software), effects)
        sessions = Sessions(transport, presence.greeter.connect, directory, ledger)
        placement = Placement(directory, effects.rng)
        submitter = Submitter(placement, sessions, ledger, memory.salts, memory.accepted)
        carrier = Carrier(KeptJobs(home.jobs), submitter, memory.accepted, effects)
        benches = BenchRunners(backends, backends, transport, offerer)
        _listen_for_workers(placement, carrier, presence)
        worker = Worker(
            sessions, Admission(directory, backends, backends), backends, benches, ledger
        )
        EchoServer(transport, directory, partial(submitter.asks, benchmarks.NETWORK))
        exchange = _exchange(presence, feeds, index, shares=config.share)
        bundles = _worker_bundles(exchange, ledger, directory)
        watching = Watching(home.vouched, feeds, ledger.report)
        admitter = _admitter(identity, effects, presence)
        async with (
            memory.running(config),  # outermost: all that is below still writes while it stops
            presence.started(),
            running(
                *(exchange.run, runners.serve, sessions.run, worker.run, offerer.run, bundles.run),
                partial(upstream.serve, offerer.refresh),
            ),
        ):
            offerer.on_change(presence.advertiser.refresh)
            async with trio.open_nursery() as clients:
                node = Node(
                    config=config,
                    home=home,
                    effects=effects,
                    identity=identity,
                    journal=journal,
                    feeds=feeds,
                    index=index,
                    presence=presence,
                    models=models,
                    runners=runners,
                    upstream=upstream,
                    offerer=offerer,
                    carrier=carrier,
                    recorder=memory.recorder,
                    ledger=ledger,
                    redactor=memory.redactor,
                    submissions=Submissions(submitter, ledger.report, clients),
                    worker=worker,
                    exchange=exchange,
                    worker_bundles=bundles,
                    watching=watching,
                    admitter=admitter,
                    nursery=clients,
                )
                await _open_doors(node, ledger.report)
                yield node
                log.info("node stopping", extra={"jobs": worker.unfinished})
                await _drain(worker, submitter)
                clients.cancel_scope.cancel()
            await feeds.cut_all()


def _listen_for_workers(placement: Placement, carrier: Carrier, presence: Presence) -> None:
    """Have jobs that wait tried when a worker comes, or comes back, or offers another model."""
    directory = presence.directory
    presence.greeter.on_met(lambda peer: placement.met(peer, trio.current_time()))
    presence.greeter.on_met(lambda peer: carrier.wake() if directory.worker(peer) else None)
    Arrivals(directory, carrier.wake)


async def _open_doors(node: Node, report: Reports) -> None:
    """Go on with kept jobs, and let clients in."""
    await node.nursery.start(node.carrier.run)
    await node.nursery.start(control.serve, ControlApi(node).app(), node.home.control_socket)
    await node.nursery.start(_serve_api, node, report)
    _log_sandbox(node.runners.sandbox)
    listening = node.presence.transport.addresses
    log.info("node up", extra={"peer": node.identity.peer_id, "listening": listening})
    settle()


async def _drain(worker: Worker, submitter: Submitter) -> None:
    """Finish what is under way, for others and for our clients, within ``DRAIN_S``."""
    with trio.move_on_after(DRAIN_S):
        async with trio.open_nursery() as draining:
            draining.start_soon(worker.drain)
            draining.start_soon(submitter.drain)
        await trio.sleep(LAST_LINES_S)


async def _serve_api(
    node: Node, report: Reports, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve the HTTP API over TCP until cancelled, if it is on; only then is it imported."""
    options = node.config.api
    if not options.enabled:
        task_status.started()
        return
    from node.api.access import Access
    from node.api.mcp.door import McpDoor
    from node.api.openai.app import openai_app
    from node.api.openai.front import Front

    token = load_or_create(node.home.api_token, node.effects)
    front = Front(
        directory=node.presence.directory,
        submissions=node.submissions,
        new_job_id=partial(node.effects.token, JOB_ID_BYTES),
        check_may_submit=node.check_may_submit,
        now_us=node.effects.now_us,
        report=report,
        timeout_s=options.timeout_s,
    )
    access = Access.of(token, options.host, options.hosts, options.origins)
    app = openai_app(front, access, McpDoor(node.home.path, node.nursery, report, front.room))
    await control.serve_http(app, options.address, task_status=task_status)


def _runners(
    models: ModelStore, effects: Effects, options: Runners, device: ComputeDevice
) -> RunnerPool:
    return RunnerPool(
        models,
        effects,
        idle_unload_s=options.idle_unload_s,
        sandbox=options.sandbox,
        device=device,
    )


def _log_sandbox(sandbox: Sandbox) -> None:
    if sandbox.reason:
        extra = {"sandbox": sandbox.level, "reason": sandbox.reason}
        log.warning("runners are not confined strictly", extra=extra)
    else:
        log.info("runners confined", extra={"sandbox": sandbox.level})


def _exchange(presence: Presence, feeds: Feeds, index: Index[Store], *, shares: bool) -> Exchange:
    policy = policy_of(presence.directory, shares=shares)
    exchange = Exchange(presence.transport, feeds, policy, in_index(index, feeds.key.public))
    presence.transport.on_connection(exchange.connection_changed)
    return exchange


def _worker_bundles(exchange: Exchange, ledger: JobLedger, directory: Directory) -> WorkerBundles:
    """Have the records fetched that those of this node's jobs name."""
    bundles = WorkerBundles(directory.own, exchange.seek, ShownBy(directory))
    ledger.on_named = bundles.named
    return bundles


def _network(config: NodeConfig) -> Network:
    return Network(
        host=config.listen.host,
        port=config.listen.port,
        bootstrap=config.discovery.bootstrap,
        uses_mdns=config.discovery.mdns,
    )


def _admitter(identity: Identity, effects: Effects, presence: Presence) -> Admitter | None:
    """Admit newcomers, where this node may."""
    if ADMITTER not in identity.member.certificate.roles:
        return None
    admitter = open_admitter(identity, effects, presence.revocations)
    admitter.serve(presence.transport)
    return admitter
