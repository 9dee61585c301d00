"""Option names of other toolkits: accepted as synonyms, or reported with the option to use instead."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tercet.core.registry import most_similar

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "lr0": ("lr",),
    "model": ("members", "backbones"),
    "models": ("members", "backbones"),
    "arch": ("members", "backbones"),
    "imgsz": ("image_size", "input.size"),
    "img_size": ("image_size", "input.size"),
    "image_size": ("input.size",),
    "input_size": ("input.size",),
    "bs": ("batch_size", "batches"),
    "batch": ("batch_size",),
    "epoch": ("epochs",),
    "num_epochs": ("epochs",),
    "max_epochs": ("epochs",),
    "val_split": ("data.val_fraction",),
    "validation_split": ("data.val_fraction",),
    "test_split": ("data.test_fraction",),
    "resolution": ("image_size", "input.size"),
    "save_dir": ("output",),
    "workers": ("data.num_workers",),
    "num_workers": ("data.num_workers",),
    "opt": ("optimizer",),
    "wd": ("weight_decay",),
    "output_dir": ("output",),
    "out_dir": ("output",),
    "out": ("output",),
    "data_dir": ("data.data_dir",),
    "class": ("class_name",),
}
"""Options with the same meaning; the first one that a command has is set."""

SHORT: Mapping[str, str] = {"-m": "model", "-b": "bs", "-o": "out"}
"""Short options, as keys of `SYNONYMS`."""

HINTS: Mapping[str, tuple[str, ...]] = {
    "quick": ("dry_run", "preset", "data.limit"),
    "fast": ("dry_run", "preset", "data.limit"),
    "early_stopping": ("patience",),
    "gpu": ("device",),
    "gpus": ("device",),
    "cuda": ("device",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "amp": ("precision",),
    "scheduler": ("schedule",),
    "lr_scheduler": ("schedule",),
}
"""Options with the same purpose but other values: suggested, never set."""


def aliases_of(keys: Collection[str]) -> dict[str, str]:
    """Return the synonyms that apply to a command with these options, each with its option."""
    options = {name: [key for key in known if key in keys] for name, known in SYNONYMS.items() if name not in keys}
    return {name: matches[0] for name, matches in options.items() if matches}


def suggest(key: str, keys: Collection[str]) -> list[str]:
    """Return the options of a command that an unknown one probably means, most likely first.

    Args:
        key: The unknown option, dotted, with underscores.
        keys: All options of the command.
    """
    hints = [hint for hint in HINTS.get(key, ()) if hint in keys]
    if hints:
        return hints[:1] if hints[0] == "dry_run" else hints
    positive = key.removeprefix("no_")
    with_prefix = [known for known in keys if known.endswith(f".{positive}")]
    if len(with_prefix) == 1:
        return with_prefix
    direct = most_similar(positive, keys)
    names = {known.rpartition(".")[2]: known for known in keys}
    indirect = names.get(most_similar(positive, names) or "")
    return [item for item in (direct or indirect,) if item is not None]
