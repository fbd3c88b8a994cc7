"""What this node offers: its hardware as measured, its models, its software; written down as
records too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import trio

from node import hardware
from node.devices import ComputeDevice
from node.manifest import ModelError
from node.offered_model import OfferedModel
from node.runner.kinds import KINDS, kind_named
from node.runner.sandbox import beside_device
from peer.adverts import Offering
from peer.durable import NotWrittenError, write_durably
from peer.journal import JournalFullError
from peer.recorder import Recorder
from protocols import dagcbor
from protocols.advert import ModelOffer
from protocols.benchmark import Figure
from protocols.cid import CID
from protocols.limits import MAX_ADVERT_MODELS, MAX_ADVERT_OFFERS_BYTES
from protocols.membership import WORKER, Membership

log = logging.getLogger(__name__)

MEASURED_FILE: Final = "hardware.json"
MODEL_REGISTERED: Final = "model.registered"
ROOM_RETRY_S: Final = 10.0  # a full disk is emptied by a person


class Models(Protocol):
    """Where the models come from."""

    def scan(self) -> tuple[list[OfferedModel], list[ModelError]]:
        """Return all usable models, and what is wrong with others."""
        ...


class Offerer:
    """Keeps what this node says of itself up to date; ``run`` measures the hardware and records it.

    A start uses the last measurement at once where software and hardware are still the same, and
    measures again beside the first jobs unless that was a moment ago.
    """

    def __init__(
        self,
        home: Path,
        membership: Membership,
        models: Models,
        recorder: Recorder,
        sandbox: str,
        device: ComputeDevice,
    ) -> None:
        self._device = device
        self._file = home / MEASURED_FILE
        self._roles = membership.certificate.roles
        self._models = models
        self._recorder = recorder
        self._sandbox = sandbox
        self._environment = hardware.environment()
        self._measured: dict[str, Any] | None = None
        self._was_measured = trio.Event()
        self._capabilities: dict[str, Any] = {}
        self._hardware: CID | None = None
        self._here: list[OfferedModel] = []
        self._registered: set[CID] = set()
        self._changed: Callable[[], None] = lambda: None

    @property
    def software(self) -> str:
        """Our name and version."""
        return f"covey {self._environment['covey']}"

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` now, and whenever ``offering`` has something new to say."""
        self._changed = callback
        callback()

    @property
    def _level(self) -> str:
        return beside_device(self._sandbox, self._device.name)

    def offering(self) -> Offering:
        """What the advert says now. Models are offered once the hardware that runs them is on
        record.
        """
        is_ready = self._hardware is not None and WORKER in self._roles
        return Offering(
            roles=self._roles,
            addresses=(),
            software=self.software,
            hardware=self._hardware,
            capabilities=self._capabilities,
            models=_offers(self._here) if is_ready else (),
            sandbox=self._level if WORKER in self._roles else "",
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Record the software, measure and record the hardware, then wait to be cancelled."""
        self._recorder.environment = await self._recorder.block("environment", self._environment)
        await self.refresh()
        if (known := self._last_measured()) is not None:
            await self._offer_hardware(known)
        task_status.started()
        if known is not None and hardware.is_recent(known, self._recorder.effects.now_us()):
            self._measured = known
        else:
            await self._measure(is_known=known is not None)
        self._was_measured.set()
        await trio.sleep_forever()

    async def _measure(self, *, is_known: bool) -> None:
        try:
            measured = await hardware.measure()
        except hardware.MeasureError as error:
            log.warning("hardware not measured", extra={"reason": error.message})
            if not is_known:
                await self._offer_hardware(hardware.unmeasured(), is_measured=False)
            return
        while True:
            try:
                await self._offer_measured(measured)
                return
            except JournalFullError as error:  # no reason to end: the disk may have room again
                log.warning("hardware not recorded yet", extra={"reason": error.message})
                await trio.sleep(ROOM_RETRY_S)

    async def until_measured(self) -> None:
        """Return when the measurement of this start is over, so that a benchmark is alone."""
        await self._was_measured.wait()

    async def benchmarked(self, figures: Iterable[Figure]) -> None:
        """Advertise what a benchmark found of this machine, and use it at the next start; raises
        ``JournalFullError``. Does nothing before the first measurement.
        """
        if self._measured is None:
            return
        renewed = hardware.with_figures(self._measured, figures)
        if renewed != self._measured:
            await self._offer_measured(renewed)

    async def refresh(self) -> None:
        """Look at the models again; register those that are new, and advertise."""
        models, damaged = self._models.scan()
        for error in damaged:
            log.warning("model not offered", extra={"reason": error.message})
        self._here = runnable(models)
        for model in self._here:
            if model.cid not in self._registered:
                await self._register(model)
        self._changed()

    async def _register(self, model: OfferedModel) -> None:
        await self._recorder.block(
            MODEL_REGISTERED, model.registration, generated=[(model.cid, "model")]
        )
        self._registered.add(model.cid)

    async def _offer_measured(self, measured: dict[str, Any]) -> None:
        dated = {**measured, "measured_at_us": self._recorder.effects.now_us()}
        self._remember(dated)
        await self._offer_hardware(dated)
        self._measured = measured

    async def _offer_hardware(self, known: dict[str, Any], *, is_measured: bool = True) -> None:
        self._device.found(known.get("accelerators", ()))
        self._hardware = await self._recorder.block("hardware", known)
        self._recorder.hardware = self._hardware
        told = hardware.capabilities(known, self._device.name) if is_measured else known
        self._capabilities = told
        self._changed()

    def _last_measured(self) -> dict[str, Any] | None:
        try:
            known = json.loads(self._file.read_bytes())
            is_same = known["environment"] == self._environment
            return known["measured"] if is_same else None
        except (OSError, ValueError, KeyError, TypeError):  # it is not ours to trust, and no loss
            return None

    def _remember(self, measured: dict[str, Any]) -> None:
        content = {"environment": self._environment, "measured": measured}
        try:
            write_durably(self._file, json.dumps(content).encode())
        except NotWrittenError as error:  # it only spares the next start a measurement
            log.warning("measurement not kept", extra={"reason": error.message})


def runnable(models: Sequence[OfferedModel]) -> list[OfferedModel]:
    """Return the models for whose kinds everything is installed; says in the log what is missing
    for the others.
    """
    reasons = {model.name: _why_not(model) for model in models}
    for name, why in reasons.items():
        if why is not None:
            log.warning("model not offered", extra={"model": name, "reason": why})
    return [model for model in models if reasons[model.name] is None]


def _why_not(model: OfferedModel) -> str | None:
    if model.backend:
        return None  # it computes elsewhere
    if model.kind not in KINDS:
        return f"this covey does not know the kind {model.kind}"
    return kind_named(model.kind).NEEDS.unmet()


def _offers(models: Iterable[OfferedModel]) -> tuple[ModelOffer, ...]:
    """Return what the advert says of models: of an upstream's only as many as it has room for."""
    offers: list[ModelOffer] = []
    size_bytes = 0
    for model in models:
        offer = _offer(model)
        size_bytes += len(dagcbor.encode(msgspec.to_builtins(offer, builtin_types=(bytes, CID))))
        is_full = size_bytes > MAX_ADVERT_OFFERS_BYTES or len(offers) == MAX_ADVERT_MODELS
        if not (is_full and model.backend):
            offers.append(offer)
    return tuple(offers)


def _offer(model: OfferedModel) -> ModelOffer:
    return ModelOffer(
        name=model.name,
        cid=model.cid,
        kind=model.kind,
        precisions=model.precisions,
        dimension=model.dimension,
        tolerances=model.tolerances,
        backend=model.backend,
    )
