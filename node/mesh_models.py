"""What the mesh offers right now, model by model, by what its workers say in their adverts."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from peer.directory import Directory
from protocols.advert import ModelOffer

Offers = dict[str, list[ModelOffer]]


def offered(directory: Directory) -> Offers:
    """Return what workers of the mesh offer now, by the model's name: an offer a worker."""
    offers: Offers = defaultdict(list)
    for entry in directory.workers():
        for offer in entry.advert.models if entry.advert else ():
            offers[offer.name].append(offer)
    return dict(offers)


def summary(offers: list[ModelOffer]) -> dict[str, Any]:
    """Return what all offers of one name come to."""
    return {
        "kinds": sorted({offer.kind for offer in offers}),
        "precisions": sorted({precision for offer in offers for precision in offer.precisions}),
        "cids": sorted({str(offer.cid) for offer in offers}),
        "workers": len(offers),
    }
