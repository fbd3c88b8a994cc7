"""Whether a job can be what its client means, as far as is known before any worker is asked: what
the mesh's workers say of its model decides what a job must bring.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from node.errors import InputError
from node.mesh_models import offered
from node.needs import serves
from node.runner.items import parameters_of
from node.runner.kinds import KINDS, kind_named
from peer.directory import Directory
from protocols.advert import ModelOffer

SHOWN_CHARS: Final = 64


def check_asked(directory: Directory, kind: str, model: str, content: bytes) -> None:
    """Raise ``InputError`` for a job that no worker of those with its model would do. Where nobody
    has the model now, nothing is known, and the job may wait for somebody who does.
    """
    offers = offered(directory).get(model, [])
    if kind in KINDS and offers:
        _check_kind(offers, kind, model)
        _check_parameters({offer.kind for offer in offers if serves(offer, kind)}, kind, content)


def _check_kind(offers: list[ModelOffer], kind: str, model: str) -> None:
    if not any(serves(offer, kind) for offer in offers):
        others = sorted({offer.kind for offer in offers})
        raise InputError(
            f"model {model} is for {', '.join(others)}, not for {kind}",
            code="kind-mismatch",
            hint=f"covey run {others[0]} --model {model}",
        )


def _check_parameters(model_kinds: Collection[str], kind: str, content: bytes) -> None:
    table = kind_named(kind).PARAMETERS
    needed = [each for each in table if each.needed_on and set(model_kinds) <= set(each.needed_on)]
    if not needed:
        return
    told = parameters_of(table, content)
    for parameter in needed:
        if parameter.name not in told:
            raise InputError(
                f"{parameter.name} are missing: this model has none of its own",
                hint=f"--{parameter.name} {parameter.separator.join('ab')}",
                parameter=parameter.name,
            )
