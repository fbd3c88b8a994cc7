"""The models installed at this node: a folder each, checked against its manifest.

A model appears and disappears whole: it is copied beside its place, flushed to disk, and renamed.
Only the files that the architecture needs are copied, links are not followed, and pickles are never
taken. The methods block: the daemon calls those that write from a worker thread.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from node.benchmarks import MACHINE
from node.catalogue import CATALOGUE, locate
from node.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    FileEntry,
    Manifest,
    ModelDamagedError,
    ModelError,
    ModelMissingError,
    check_file_name,
    check_name,
    is_pickle,
)
from node.runner.backends.bert import BertConfig, max_tokens_of
from node.runner.files import CHUNK_BYTES, ModelFiles, open_inside, read_manifest
from node.runner.host import cpu_flags
from protocols.cid import CID

MAX_CONFIG_BYTES: Final = 1 << 20  # config.json of the largest models is 10 kB
REQUIRED_FILES: Final = ("config.json", "tokenizer.json")
OPTIONAL_FILES: Final = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
MACHINE_FOLDER: Final = Path(__file__).parent / "runner" / MACHINE
BF16_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86 with tiles, ARM


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model in this node's folder, with the precisions in which this machine's CPU can run it
    well.
    """

    name: str
    cid: CID
    kind: str
    path: Path
    manifest: Manifest
    precisions: tuple[str, ...]


class ModelStore:
    """Installs, lists and removes models below ``root``, which is made when the first one comes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._read: dict[str, tuple[tuple[int, int, int], InstalledModel]] = {}
        self.machine = _installed(MACHINE_FOLDER, read_manifest(MACHINE_FOLDER, MACHINE))

    def add(self, name: str) -> InstalledModel:
        """Install a model of the catalogue; see ``add_path`` for what this means."""
        packaged = CATALOGUE.get(check_name(name))
        if packaged is None:
            raise ModelError(
                f"{name} is not in the catalogue",
                code="model-unknown",
                hint=f"it has {', '.join(sorted(CATALOGUE))}; add others with --path FOLDER",
            )
        return self._install(locate(packaged), packaged.manifest)

    def add_path(
        self, folder: Path, *, name: str, kind: str = "embed", license_name: str = "unknown"
    ) -> InstalledModel:
        """Install the model in a local folder under ``name``.

        Installing what is there already does nothing, or replaces its files when they are damaged.
        Raises ``ModelError``, with code ``model-exists`` when another model has that name.
        """
        if not folder.is_dir():
            raise ModelError(f"{folder} is not a folder", code="model-incomplete")
        if name == MACHINE:
            raise ModelError(f"the name {name} stands for the machine itself", code="model-exists")
        return self._install(folder, _describe(folder, check_name(name), kind, license_name))

    def list(self) -> list[InstalledModel]:
        """Return the usable models, by name."""
        return self.scan()[0]

    def scan(self) -> tuple[list[InstalledModel], list[ModelError]]:
        """Return the usable models by name, and what is wrong with each of the others."""
        models: list[InstalledModel] = []
        faults: list[ModelError] = []
        for name in self._names():
            try:
                models.append(self.get(name))
            except ModelError as error:
                faults.append(error)
        return models, faults

    def get(self, name: str) -> InstalledModel:
        """Return one installed model; its manifest is read again only when the file changed.

        Raises ``ModelMissingError``, or ``ModelDamagedError`` when the manifest is not valid. The
        other files are the runner's to check. The model ``machine`` is everywhere.
        """
        if name == MACHINE:
            return self.machine
        try:  # every job asks several times: no paths are built where nothing changed
            status = os.lstat(f"{self._root}/{check_name(name)}/{MANIFEST_NAME}")
        except FileNotFoundError as error:
            if (self._root / name).exists():
                raise ModelDamagedError(f"model {name} has no manifest") from error
            raise ModelMissingError(
                f"model {name} is not installed here", hint=f"covey models add {name}"
            ) from error
        stamp = (status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        known = self._read.get(name)
        if known is None or known[0] != stamp:
            folder = self._root / name
            known = self._read[name] = (stamp, _installed(folder, read_manifest(folder, name)))
        return known[1]

    def remove(self, name: str) -> None:
        """Delete an installed model, damaged or not; raises ``ModelMissingError``. A runner that
        holds it keeps what it has in memory.
        """
        with self._locked():
            if not (self._root / check_name(name)).is_dir():
                raise ModelMissingError(f"model {name} is not installed here")
            self._discard(name)
            _flush_folder(self._root)

    def _names(self) -> Iterable[str]:
        if not self._root.is_dir():
            return ()
        return sorted(
            p.name for p in self._root.iterdir() if MODEL_NAME.fullmatch(p.name) and p.is_dir()
        )

    def _install(self, source: Path, manifest: Manifest) -> InstalledModel:
        final = self._root / manifest.name
        with self._locked():
            if self._is_intact(final, manifest):
                return self.get(manifest.name)
            incoming = self._root / f".incoming-{secrets.token_hex(8)}"
            try:
                _copy_model(source, incoming, manifest)
                if final.exists():
                    self._discard(manifest.name)
                incoming.rename(final)
            except BaseException:
                shutil.rmtree(incoming, ignore_errors=True)
                raise
            _flush_folder(self._root)
        return self.get(manifest.name)

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
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in (*self._root.glob(".incoming-*"), *self._root.glob(".removed-*")):
                shutil.rmtree(leftover, ignore_errors=True)
            yield


def _installed(folder: Path, manifest: Manifest) -> InstalledModel:
    return InstalledModel(
        name=manifest.name,
        cid=manifest.cid,
        kind=manifest.kind,
        path=folder,
        manifest=manifest,
        precisions=precisions_of(manifest, cpu_flags()),
    )


def precisions_of(manifest: Manifest, flags: frozenset[str]) -> tuple[str, ...]:
    """Return the precisions offered for a model, its declared one first: bf16 only where the CPU
    multiplies in it.
    """
    faster = ("bf16",) if manifest.precision == "fp32" and flags & BF16_FLAGS else ()
    return (manifest.precision, *faster)


def _describe(folder: Path, name: str, kind: str, license_name: str) -> Manifest:
    """Return the manifest of the model in a local folder, with the digests of the files as they are
    now.
    """
    config = BertConfig.parse(_read_small(folder, "config.json"))
    files = {file_name: _digest(folder, file_name) for file_name in _files_of(folder)}
    limits = (
        _read_small(folder, "sentence_bert_config.json")
        if "sentence_bert_config.json" in files
        else None
    )
    return Manifest(
        name=name,
        kind=kind,
        architecture=config.model_type,
        precision="fp32",
        dimension=config.hidden_size,
        max_tokens=max_tokens_of(config, limits),
        license=license_name,
        source="local",
        files=files,
    )


def _files_of(folder: Path) -> list[str]:
    weights = sorted(p.name for p in folder.glob("*.safetensors"))
    if not weights:
        pickled = any(is_pickle(p.name) for p in folder.iterdir())
        raise ModelError(
            f"{folder} has {'only pickled weights' if pickled else 'no weights'}",
            code="model-pickle" if pickled else "model-incomplete",
            hint="a model needs its weights as .safetensors",
        )
    optional = [name for name in OPTIONAL_FILES if os.path.lexists(folder / name)]
    return [check_file_name(name) for name in (*REQUIRED_FILES, *weights, *optional)]


def _read_small(folder: Path, name: str) -> bytes:
    with _open_source(folder, name) as descriptor:
        return os.read(descriptor, MAX_CONFIG_BYTES)


def _digest(folder: Path, name: str) -> FileEntry:
    digest = hashlib.sha256()
    size = 0
    with _open_source(folder, name) as descriptor:
        while chunk := os.read(descriptor, CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return FileEntry(digest.hexdigest(), size)


def _copy_model(source: Path, target: Path, manifest: Manifest) -> None:
    target.mkdir(mode=0o700)
    for name, entry in manifest.files.items():
        (target / name).parent.mkdir(exist_ok=True, parents=True)
        _copy_file(source, target, name, entry)
    with (target / MANIFEST_NAME).open("xb") as file:
        file.write(manifest.to_json())
        _flush(file)
    for folder in {(target / name).parent for name in manifest.files} | {target}:
        _flush_folder(folder)


def _copy_file(source: Path, target: Path, name: str, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    size = 0
    with _open_source(source, name) as descriptor, (target / name).open("xb") as file:
        while chunk := os.read(descriptor, CHUNK_BYTES):
            digest.update(chunk)
            size += file.write(chunk)
        _flush(file)
    if size != entry.size or digest.hexdigest() != entry.sha256:
        raise ModelError(
            f"{source / name} is not the file that this model's manifest names",
            code="model-digest",
            hint="reinstall the package that brings it, or get the model anew",
        )


@contextmanager
def _open_source(folder: Path, name: str) -> Generator[int]:
    try:
        descriptor = open_inside(folder, name)
    except OSError as error:
        raise ModelError(
            f"{folder / name} cannot be read as a plain file: {error.strerror}",
            code="model-incomplete",
            hint="links are not followed; copy the folder with: cp -rL",
        ) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
