"""Measuring the connection between two nodes: one side measures, the other plays along.

The worker of a ``bench.network`` job measures, because what it returns is then an output like any
other: committed to, recorded and signed by who states it. Round trips and throughput are those of
one warm stream on the connection that jobs use, with nothing of a job in them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import trio

from protocols import echo
from protocols.benchmark import Figure, figure_of
from protocols.echo import Allowance, Tag
from protocols.errors import CoveyError, JobFailed, RemoteProtocolError, TransportError
from protocols.keys import PeerId
from protocols.limits import BENCH_NETWORK_WITHIN_S
from protocols.membership import ECHO_PROTOCOL
from protocols.transport import Stream, Transport

log = logging.getLogger(__name__)

SHORTEST_S: Final = 1e-9

OnRound = Callable[[], None]
Round = Callable[[], Awaitable[None]]


class Members(Protocol):
    """The directory."""

    def may(self, peer_id: PeerId, protocol: str) -> bool:
        """Tell whether a peer's roles let it use a protocol."""
        ...


class EchoServer:
    """Plays along with workers that ``is_measuring`` names, one stream each; nobody else may use
    the connection up.
    """

    def __init__(
        self, transport: Transport, members: Members, is_measuring: Callable[[PeerId], bool]
    ) -> None:
        self._members = members
        self._is_measuring = is_measuring
        self._served: set[PeerId] = set()
        transport.serve(ECHO_PROTOCOL, self._serve)

    async def _serve(self, stream: Stream) -> None:
        peer = stream.peer_id
        is_allowed = self._members.may(peer, ECHO_PROTOCOL) and self._is_measuring(peer)
        if peer in self._served or not is_allowed:
            log.info("echo refused", extra={"peer": peer})
            await stream.reset()
            return
        self._served.add(peer)
        try:
            with trio.move_on_after(BENCH_NETWORK_WITHIN_S):
                await self._play(stream)
        finally:
            self._served.discard(peer)

    async def _play(self, stream: Stream) -> None:
        received, sent, since_mark = Allowance(), Allowance(), 0
        while (content := await stream.receive()) is not None:
            frame = echo.read(content)
            received.take(len(content))
            match frame.tag:
                case Tag.PING:
                    sent.take(len(content))
                    await stream.send(content)
                case Tag.SINK:
                    since_mark += frame.size
                case Tag.MARK:
                    sent.take(len(content))
                    await stream.send(echo.mark(since_mark))
                    since_mark = 0
                case Tag.SOURCE:
                    sent.take(frame.number)
                    for each in echo.sinks(frame.number):
                        await stream.send(each)
                    await stream.send(echo.mark(frame.number))
        await stream.finish()


async def measure_network(
    transport: Transport, peer: PeerId, *, pings: int, rounds: int, round_mb: int, on_round: OnRound
) -> list[Figure]:
    """Return round trips and throughput between here and ``peer``; ``on_round`` is called after
    each round trip and each round of bulk.

    Raises ``JobFailed``: with code ``network-unmeasured`` when the connection does not last, or
    when ``peer`` is this node.
    """
    if peer == transport.peer_id:
        raise JobFailed("a node has no network to itself", code="network-unmeasured")
    size = round_mb << 20
    try:
        with trio.fail_after(BENCH_NETWORK_WITHIN_S):
            stream = await transport.open_stream(peer, ECHO_PROTOCOL)
            try:
                plan: list[tuple[int, Round, float, str]] = [
                    (pings, partial(_ping, stream), 0.0, "round_trip_ms"),
                    (rounds, partial(_push, stream, size), size / 1e6, "to_submitter_mb_s"),
                    (rounds, partial(_pull, stream, size), size / 1e6, "from_submitter_mb_s"),
                ]
                figures: list[Figure] = []
                for count, act, amount_mb, name in plan:
                    samples_s = await _timed(act, count, on_round)
                    figures.append(_figure(name, samples_s, amount_mb))
                await stream.finish()
                await stream.receive()
            finally:
                await stream.aclose()
    except (TransportError, RemoteProtocolError, trio.TooSlowError) as error:
        why = error.message if isinstance(error, CoveyError) else "it took too long"
        raise JobFailed(
            f"the network was not measured: {why}", code="network-unmeasured"
        ) from error
    return figures


def _figure(name: str, samples_s: list[float], amount_mb: float) -> Figure:
    if amount_mb:
        rates = [amount_mb / took_s for took_s in samples_s]
        return figure_of(name, rates, is_higher_better=True)
    return figure_of(name, [took_s * 1_000 for took_s in samples_s], is_higher_better=False)


async def _timed(act: Round, count: int, on_round: OnRound) -> list[float]:
    """Return how long each of ``count`` rounds took, after one that does not count."""
    await act()
    samples: list[float] = []
    for _ in range(count):
        began = trio.current_time()
        await act()
        samples.append(max(trio.current_time() - began, SHORTEST_S))
        on_round()
    return samples


async def _ping(stream: Stream) -> None:
    await stream.send(echo.ping())
    await _receive(stream, Tag.PING)


async def _push(stream: Stream, size: int) -> None:
    for frame in echo.sinks(size):
        await stream.send(frame)
    await stream.send(echo.mark())
    _check_count(await _receive(stream, Tag.MARK), size)


async def _pull(stream: Stream, size: int) -> None:
    await stream.send(echo.source(size))
    came = 0
    while came < size:
        came += (await _receive(stream, Tag.SINK)).size
    _check_count(await _receive(stream, Tag.MARK), came)
    if came != size:
        raise RemoteProtocolError(f"{came} bytes came instead of {size}", got=came)


async def _receive(stream: Stream, tag: Tag) -> echo.Frame:
    content = await stream.receive()
    frame = echo.read(content or b"")
    if frame.tag is not tag:
        raise RemoteProtocolError(f"the echo answered {frame.tag.name}, not {tag.name}")
    return frame


def _check_count(answer: echo.Frame, size: int) -> None:
    if answer.number != size:
        raise RemoteProtocolError(f"{answer.number} of {size} bytes came", got=answer.number)
