"""Metadata of exported files: the JSON document that describes a bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from tercet.ensemble.bundle import Bundle
from tercet.ensemble.combiners import combiner_name, fusion_heads
from tercet.models.backbone import backbone_origin
from tercet.models.label_decoder import LabelDecoder
from tercet.models.summary import count_parameters


def describe_bundle(bundle: Bundle, *, version: str, quantized: Sequence[str] = ()) -> dict[str, Any]:
    """Return the metadata of a bundle.

    Args:
        bundle: The exported bundle.
        version: Version of Tercet.
        quantized: Names of the int8 members.
    """
    members = [
        {
            "name": member.name,
            "network": member.classifier.network,
            "parameters": count_parameters(member.classifier),
            "input": member.classifier.spec.to_dict(),
            "views": str(member.views),
            "seed": member.views.seed,
            "precision": "int8" if member.name in quantized else "fp32",
            **({"pretrained": origin.weights} if (origin := backbone_origin(member.classifier)) else {}),
        }
        for member in bundle.members
    ]
    sets = None
    if bundle.sets is not None:
        sets = {**bundle.sets.to_dict(), "search": "greedy" if uses_beam_search(bundle) else None}
    return {
        "tercet": version,
        "name": bundle.name,
        "parameters": bundle.parameters,
        "classes": list(bundle.classes),
        "members": members,
        "combiner": None if bundle.combiner is None else combiner_name(bundle.combiner),
        "heads": len(fusion_heads(bundle.combiner)),
        "sets": sets,
        "calibration": None if bundle.calibration is None else bundle.calibration.to_dict(),
        "weights_sha256": weights_sha256(bundle),
        "card": bundle.card,
    }


def uses_beam_search(bundle: Bundle) -> bool:
    """Whether a member decodes labels by beam search, which exported files replace by greedy decoding."""
    return any(decoder.beam_size > 1 for decoder in decoders(bundle))


def decoders(bundle: Bundle) -> Iterator[LabelDecoder]:
    """Yield the label decoders of all members."""
    modules = (module for member in bundle.members for module in member.classifier.modules())
    yield from (module for module in modules if isinstance(module, LabelDecoder))


def weights_sha256(bundle: Bundle) -> str:
    """Return the SHA-256 of all weights of members and fusion heads; identifies the bundle of a file."""
    digest = hashlib.sha256()
    for module in (*(member.classifier for member in bundle.members), *fusion_heads(bundle.combiner)):
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
