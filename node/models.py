"""The models installed at this node: a folder each, checked against its manifest.

A model appears and disappears whole: it is copied or converted beside its place, flushed to disk,
and renamed. The methods block: the daemon calls those that write from a worker thread.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from node.benchmarks import MACHINE
from node.catalogue import CATALOGUE, locate
from node.devices import CPU, ComputeDevice
from node.gguf.convert import SUFFIX as GGUF_SUFFIX
from node.intake import convert_model, copy_model, describe, flush_path
from node.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    Manifest,
    ModelDamagedError,
    ModelError,
    ModelMissingError,
    check_license,
    check_name,
    declaring,
)
from node.runner.files import ModelFiles, read_manifest
from node.runner.host import BF16_FLAGS, cpu_flags
from node.runner.kinds import KINDS, kind_named
from peer.durable import make_folder_durably
from protocols.cid import CID

NO_TOLERANCES: Final[Mapping[str, float]] = MappingProxyType({})
UNCHANGED_S: Final = 0.05
"""How long a manifest that was looked at is taken to be the same: jobs ask five times each, and a
question to the file system costs a busy worker more than a small job's decoding.
"""
MACHINE_FOLDER: Final = Path(__file__).parent / "runner" / MACHINE


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in this node's folder, with the precisions in which this machine can run it well."""

    name: str
    cid: CID
    kind: str
    path: Path
    manifest: Manifest
    precisions: tuple[str, ...]
    backend: str = ""
    inode: int = field(default=0, compare=False)
    """Of its folder: another one, of the same model, when it is installed anew."""

    @property
    def dimension(self) -> int:
        """Length of an embedding, or of a state."""
        return self.manifest.dimension

    @property
    def tolerances(self) -> dict[str, float]:
        """By precision, how far two outputs of one input may be apart."""
        return self.manifest.tolerances

    @property
    def registration(self) -> dict[str, Any]:
        """What its record says of it."""
        return {"name": self.name, "kind": self.kind, "source": self.manifest.source}

    def used_for(self, kind: str) -> Self:
        """Return this model as runners of ``kind`` use it: some kinds run on models of another."""
        return self if kind == self.kind else replace(self, kind=kind)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A model that was looked at, and until when it is taken to be what it was."""

    until: float
    device: str
    model: InstalledModel


class ModelStore:
    """Installs, lists and removes models below ``root``, which is made when the first one comes.
    They are offered in what ``device`` computes in. Without a ``clock`` every look is at the disk.
    """

    def __init__(
        self,
        root: Path,
        device: ComputeDevice | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._root = root
        self._device = device or ComputeDevice(CPU)
        self._clock = clock
        self._read: dict[str, tuple[tuple[int, int, int, str], InstalledModel]] = {}
        self._seen: dict[str, _Seen] = {}
        self.machine = _installed(MACHINE_FOLDER, read_manifest(MACHINE_FOLDER, MACHINE), CPU)

    def add(self, name: str) -> InstalledModel:
        """Install a model of the catalogue; see ``add_path`` for what this means."""
        packaged = CATALOGUE.get(check_name(name))
        if packaged is None:
            raise ModelError(
                f"{name} is not in the catalogue",
                code="model-unknown",
                hint=f"it has {', '.join(sorted(CATALOGUE))}; add others with --path FOLDER",
            )
        place, promised = locate(packaged), packaged.manifest
        if packaged.gguf is None:
            return self._install(name, lambda to: copy_model(place, to, promised), promised)
        file = place / packaged.gguf
        return self._install(name, lambda to: convert_model(file, to, name, promised), promised)

    def add_path(
        self,
        folder: Path,
        *,
        name: str,
        kind: str = "embed",
        license_name: str = "unknown",
        tolerances: Mapping[str, float] = NO_TOLERANCES,
    ) -> InstalledModel:
        """Install the model in a local folder, or in a GGUF file, under ``name``; ``tolerances``
        are what it declares besides.

        Installing what is there already does nothing, or replaces its files when they are damaged.
        Raises ``ModelError``, with code ``model-exists`` when another model has that name.
        """
        if check_name(name) == MACHINE:
            raise ModelError(f"the name {name} stands for the machine itself", code="model-exists")
        if folder.suffix == GGUF_SUFFIX and not folder.is_dir():
            return self._install(
                name, lambda to: declaring(convert_model(folder, to, name), tolerances)
            )
        manifest = declaring(describe(folder, name, kind, check_license(license_name)), tolerances)
        return self._install(name, lambda to: copy_model(folder, to, manifest), manifest)

    def list(self) -> list[InstalledModel]:
        """Return the usable models, by name."""
        return self.scan()[0]

    def scan(self) -> tuple[list[InstalledModel], list[ModelError]]:
        """Return the usable models by name, and what is wrong with each of the others."""
        models: list[InstalledModel] = []
        faults: list[ModelError] = []
        for name in self._names():
            try:
                models.append(self._look(name))
            except ModelError as error:
                faults.append(error)
        return models, faults

    def get(self, name: str) -> InstalledModel:
        """Return one installed model; its manifest is read again only when the file changed, which
        may go unnoticed for ``UNCHANGED_S``.

        Raises ``ModelMissingError``, or ``ModelDamagedError`` when the manifest is not valid. The
        other files are the runner's to check. The model ``machine`` is everywhere.
        """
        if name == MACHINE:
            return self.machine
        if self._clock is None:
            return self._look(name)
        now, device = self._clock(), self._device.name  # another one once the hardware is measured
        seen = self._seen.get(name)
        if seen is None or seen.until <= now or seen.device != device:
            seen = self._seen[name] = _Seen(now + UNCHANGED_S, device, self._look(name))
        return seen.model

    def _look(self, name: str) -> InstalledModel:
        try:  # no paths are built where nothing changed
            status = os.lstat(f"{self._root}/{check_name(name)}/{MANIFEST_NAME}")
        except FileNotFoundError as error:
            if (self._root / name).exists():
                raise ModelDamagedError(f"model {name} has no manifest") from error
            raise ModelMissingError(
                f"model {name} is not installed here", hint=f"covey models add {name}"
            ) from error
        device = self._device.name
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino, device)
        known = self._read.get(name)
        if known is None or known[0] != stamp:
            folder = self._root / name
            model = _installed(folder, read_manifest(folder, name), device)
            known = self._read[name] = (stamp, model)
        return known[1]

    def remove(self, name: str) -> None:
        """Delete an installed model, damaged or not; raises ``ModelMissingError``. A runner that
        holds it keeps what it has in memory.
        """
        with self._locked():
            if not (self._root / check_name(name)).is_dir():
                raise ModelMissingError(f"model {name} is not installed here")
            self._discard(name)
            flush_path(self._root)

    def _names(self) -> Iterable[str]:
        if not self._root.is_dir():
            return ()
        return sorted(
            p.name for p in self._root.iterdir() if MODEL_NAME.fullmatch(p.name) and p.is_dir()
        )

    def _install(
        self, name: str, fill: Callable[[Path], Manifest], known: Manifest | None = None
    ) -> InstalledModel:
        """Put a model in its place, whole: ``fill`` writes its files into a folder and returns
        their manifest, which is also ``known`` where it was before.
        """
        final = self._root / name
        with self._locked():
            if known is not None and self._is_intact(final, known):
                return self._look(name)
            incoming = self._root / f".incoming-{secrets.token_hex(8)}"
            incoming.mkdir(mode=0o700)
            try:
                manifest = fill(incoming)
                if known is None and self._is_intact(final, manifest):
                    return self._look(name)
                _write_manifest(incoming, manifest)
                if final.exists():
                    self._discard(name)
                incoming.rename(final)
            finally:
                shutil.rmtree(incoming, ignore_errors=True)
            flush_path(self._root)
        return self._look(name)

    def _is_intact(self, folder: Path, manifest: Manifest) -> bool:
        """Say whether exactly this model is there, whole; raises when it is another model."""
        if not folder.exists():
            return False
        try:
            there = read_manifest(folder, manifest.name)
            if there == manifest:
                ModelFiles(folder, there).check_all()
                return True
        except ModelDamagedError:
            return False
        raise ModelError(
            f"another model is installed as {manifest.name}",
            code="model-exists",
            hint=f"choose another name, or: covey models remove {manifest.name}",
        )

    def _discard(self, name: str) -> None:
        # renamed first, so that a kill in the middle leaves no half model under its name
        doomed = self._root / f".removed-{secrets.token_hex(8)}"
        (self._root / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """Keep other writers out, also those of other processes, and clear away what a killed one
        left.
        """
        make_folder_durably(self._root)
        with (self._root / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in (*self._root.glob(".incoming-*"), *self._root.glob(".removed-*")):
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def _installed(folder: Path, manifest: Manifest, device: str) -> InstalledModel:
    return InstalledModel(
        name=manifest.name,
        cid=manifest.cid,
        kind=manifest.kind,
        path=folder,
        manifest=manifest,
        precisions=precisions_of(manifest, cpu_flags(), device),
        inode=folder.stat().st_ino,
    )


def precisions_of(manifest: Manifest, flags: frozenset[str], device: str = CPU) -> tuple[str, ...]:
    """Return the precisions offered for a model, its declared one first: bf16 only where what its
    runners compute on multiplies in it, as accelerators do whatever their CPU can.
    """
    kind = kind_named(manifest.kind) if manifest.kind in KINDS else None
    known = kind.PRECISIONS if kind is not None else ()
    is_accelerated = kind is not None and kind.IS_ACCELERATED and device != CPU
    has_bf16 = is_accelerated or bool(flags & BF16_FLAGS)
    others = (p for p in known if p != manifest.precision and (p != "bf16" or has_bf16))
    return (manifest.precision, *others)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make the folder whole: what says what its other files are comes last."""
    (folder / MANIFEST_NAME).write_bytes(manifest.to_json())
    flush_path(folder / MANIFEST_NAME)
    for each in {(folder / name).parent for name in manifest.files} | {folder}:
        flush_path(each)
