"""What an exported file says of itself, whatever its form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from tercet.deploy.answers import heads_of, name_of
from tercet.deploy.bundle import Bundle
from tercet.models.label_decoder import LabelDecoder
from tercet.models.summary import count_parameters


def describe(bundle: Bundle, *, version: str, quantized: Sequence[str] = ()) -> dict[str, Any]:
    """Return the document about a bundle.

    Args:
        bundle: What is exported.
        version: Of this package.
        quantized: Names of the members that compute in 8 bits.
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
        }
        for member in bundle.members
    ]
    sets = None
    if bundle.sets is not None:
        sets = {**bundle.sets.to_dict(), "search": "greedy" if is_searched(bundle) else None}
    return {
        "tercet": version,
        "name": bundle.name,
        "parameters": bundle.parameter_count(),
        "classes": list(bundle.classes),
        "members": members,
        "combiner": None if bundle.combiner is None else name_of(bundle.combiner),
        "heads": len(heads_of(bundle.combiner)),
        "sets": sets,
        "calibration": None if bundle.calibration is None else bundle.calibration.to_dict(),
        "weights_sha256": weights_sha256(bundle),
        "card": bundle.card,
    }


def is_searched(bundle: Bundle) -> bool:
    """Tell whether a member finds its labels by a beam search, for which the file has one greedy sequence."""
    return any(decoder.beam_size > 1 for decoder in decoders(bundle))


def decoders(bundle: Bundle) -> Iterator[LabelDecoder]:
    """Yield the label decoders of all members."""
    parts = (part for member in bundle.members for part in member.classifier.modules())
    yield from (part for part in parts if isinstance(part, LabelDecoder))


def weights_sha256(bundle: Bundle) -> str:
    """Return the SHA-256 of all numbers that the members and the fusion heads learned: which bundle a file is of."""
    digest = hashlib.sha256()
    for module in (*(member.classifier for member in bundle.members), *heads_of(bundle.combiner)):
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
