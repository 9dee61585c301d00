"""Lists and descriptions of networks and named data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tercet.config.model import ModelConfig
from tercet.config.run import MAX_WIDTH, FusionConfig
from tercet.core.output import CommandResult
from tercet.data.datasets.info import DATASETS
from tercet.data.load import find_dataset
from tercet.models.build import build, network_descriptions, network_names
from tercet.models.fusion_head import FusionHead
from tercet.models.registry import registered_network
from tercet.models.summary import summarize
from tercet.models.timm_networks import describe_weights, find_network, weights_file

FUSION_HEAD = "e2e"


def list_models(pattern: str = "") -> CommandResult:
    """List the networks whose names contain `pattern`, with one line about each."""
    networks = {name: line for name, line in network_descriptions().items() if pattern in name}
    width = max((len(name) for name in networks), default=0)
    lines = [f"{name:<{width}}  {line}" for name, line in networks.items()]
    note = (
        f"\n{len(networks)} networks. 'tercet models NAME --classes 10' describes one; 'tercet models {FUSION_HEAD}' "
        "describes the fusion head.\n"
    )
    return CommandResult("\n".join(lines) + note, networks)


def describe_model(
    name: str,
    *,
    num_classes: int = 1000,
    config: ModelConfig | None = None,
    channels: int = 3,
    image_size: tuple[int, int] = (224, 224),
    num_members: int = 3,
    fusion: FusionConfig | None = None,
) -> CommandResult:
    """Describe layers, cost and published weights of a network; a partial name lists the networks that contain it.

    Args:
        name: Network, or `e2e` for the fusion head.
        num_classes: Number of classes.
        config: Options of the network.
        channels: Channels of the images.
        image_size: Height and width of the images.
        num_members: Number of members that the fusion head combines.
        fusion: Options of the fusion head.

    Raises:
        ConfigError: Unknown network, or options without effect on it.
    """
    if name == FUSION_HEAD:
        options = fusion or FusionConfig()
        width = MAX_WIDTH if options.width is None else options.width
        head = FusionHead(num_members, num_classes, width=width, slope=options.slope, dropout=options.dropout)
        summary = {**summarize(head), "network": FUSION_HEAD}
    else:
        known = network_names()
        if name not in known and any(name in other for other in known):
            return list_models(name)
        untrained = replace(config or ModelConfig(), weights=None)
        network = build(
            name,
            num_classes=num_classes,
            config=untrained,
            channels=channels,
            image_size=image_size,
            load_weights=False,
        )
        summary = {**summarize(network), "weights": _weights(name)}
    return CommandResult(_text(summary), summary)


def _weights(name: str) -> dict[str, Any] | None:
    """Return `source`, `revision`, `licence`, `sha256` and `cached` of published weights; None if there are none."""
    file = None if registered_network(name) is not None else weights_file(name)
    if file is None:
        return None
    path = file.cached()
    return {**describe_weights(find_network(name), path), "cached": path is not None}


def _weights_text(weights: dict[str, Any] | None) -> str:
    if weights is None:
        return "none published"
    state = "in the local cache" if weights["cached"] else "not in the local cache"
    details = [f"revision {weights['revision']}"] if weights["revision"] else []
    details += [f"SHA-256 {weights['sha256']}"] if weights["sha256"] else []
    note = f" ({', '.join(details)})" if details else ""
    return f"{weights['source']}, licence {weights['licence'] or 'unknown'}, {state}{note}"


def _text(summary: dict[str, Any]) -> str:
    spec = summary["input"]
    input_text = spec
    if isinstance(spec, dict) and "size" in spec:
        height, width = spec["size"]
        input_text = (
            f"{height} x {width} pixels, {spec['channels']} channel(s), mean {_values(spec['mean'])}, "
            f"std {_values(spec['std'])}, {spec['interpolation']}, {spec['crop_mode']}"
        )
    elif summary["network"] == FUSION_HEAD:
        input_text = f"softmax outputs of {spec['members']} members over {spec['classes']} classes"
    lines = [
        summary["network"],
        f"  parameters  {summary['parameters']:,} ({summary['trainable']:,} trainable)",
        f"  buffers     {summary['buffers']:,} (running statistics)",
        f"  operations  {summary['flops'] / 1e6:,.1f} MFLOP per image (a multiply-add is two)",
        f"  input       {input_text}",
        *([f"  weights     {_weights_text(summary['weights'])}"] if "weights" in summary else []),
        "  layers",
    ]
    width = max(len(layer["name"]) for layer in summary["layers"])
    lines += [
        f"    {layer['name']:<{width}}  {layer['type']:<20}  {layer['parameters']:>12,}" for layer in summary["layers"]
    ]
    if summary["freezing"]:
        lines += ["  freezing", *_freezing(summary["freezing"])]
    return "\n".join(lines) + "\n"


def _freezing(table: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the freezing table; the first matching pattern applies to a parameter."""
    width = max(len(line["pattern"]) for line in table)
    return [
        f"    {line['pattern']:<{width}}  {line['state']:<6}  {len(line['names']):>5} names  {line['parameters']:>12,}"
        for line in table
    ]


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def list_datasets() -> CommandResult:
    """List the named data sets and their variants."""
    lines: list[str] = []
    for name in DATASETS:
        info = find_dataset(name)
        lines.append(f"{name:<15} {info.title}" + (f", {info.num_images:,} images" if info.counts else ""))
        lines += [f"{f'{name}:{variant}':<20} {text}" for variant, text in info.variants.items()]
    documents = [_info(name) for name in DATASETS]
    return CommandResult("\n".join(lines) + "\n'tercet datasets NAME' describes one.\n", documents)


def describe_dataset(name: str) -> CommandResult:
    """Describe source, licence, files and checksums of a data set, and how to install it by hand.

    Raises:
        ConfigError: Unknown data set.
    """
    document = _info(name)
    counts = ", ".join(f"{count:,} {part}" for part, count in document["images"].items())
    shape = " x ".join("any" if size is None else str(size) for size in document["image_shape"])
    classes = ", ".join(document["classes"]) or "named by the files"
    rows = {
        "page": document["page"],
        "licence": document["licence"],
        "images": f"{counts}; {shape}" if counts else "",
        "classes": f"{document['num_classes']:,}: {classes}" if document["num_classes"] else "",
    }
    lines = [
        document["title"],
        *(f"  {name:<8} {text}" for name, text in rows.items() if text),  # an own data set has no such description
        *(f"  from     {mirror}" for mirror in document["mirrors"]),
        *(f"  file     {_file_text(file)}" for file in document["files"]),
        f"  by hand  {document['by_hand']}",
        *(f"  variant  {document['name']}:{variant} {text}" for variant, text in document["variants"].items()),
        *(f"  note     {remark}" for remark in document["remarks"]),
    ]
    return CommandResult("\n".join(lines) + "\n", document)


def _file_text(file: dict[str, Any]) -> str:
    sums = [f"{kind} {file[key]}" for key, kind in (("md5", "MD5"), ("sha256", "SHA-256")) if file[key]]
    size = "size not published" if file["size"] is None else f"{file['size']:,} bytes"
    note = f" ({file['note']})" if file["note"] else ""
    return f"{file['name']}{note}  {size}  {'  '.join(sums) or 'no checksum is published'}"


def _info(name: str) -> dict[str, Any]:
    info = find_dataset(name)
    return {
        "name": info.name,
        "title": info.title,
        "page": info.page,
        "licence": info.licence,
        "images": dict(info.counts),
        "image_shape": list(info.image_shape),
        "num_classes": info.num_classes,
        "classes": list(info.classes),
        "by_hand": info.by_hand,
        "mirrors": list(info.mirrors),
        "variants": dict(info.variants),
        "remarks": list(info.remarks),
        "files": [
            {
                "name": file.name,
                "size": file.num_bytes,
                "md5": file.digest if file.algorithm == "MD5" else None,
                "sha256": file.digest if file.algorithm == "SHA-256" else None,
                "needed": file in info.files,
                "note": file.note,
            }
            for file in (*info.files, *info.more_files)
        ],
    }
