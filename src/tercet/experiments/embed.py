"""Features of a data set as a file, and the search for similar images.

Shapes: N images, F features, Q searched images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from rich.console import Console
from torch import nn

from tercet.config.commands import EMBED, SEARCH, EncoderConfig, SearchConfig
from tercet.config.model import ModelConfig
from tercet.config.option_types import EmbedOptions
from tercet.config.parser import ParsedArguments
from tercet.config.run import DataConfig
from tercet.config.training import TrainingConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.output import count
from tercet.core.progress import as_console, print_status
from tercet.core.runtime import choose_device
from tercet.data.data_module import DataModule, drop_unreadable
from tercet.data.datasets.info import DATASETS
from tercet.data.decoding import model_config
from tercet.data.image_cache import ImageCache
from tercet.data.in_memory import DataLike, resolve_data, table_from_arrays
from tercet.data.inputs import ImageLike, table_of_files
from tercet.data.load import load_table
from tercet.data.readers.records import TABLE_SUFFIXES
from tercet.data.sources import FolderSource
from tercet.data.table import SampleTable
from tercet.ensemble.bundle import load_bundle
from tercet.experiments.embeddings import Embeddings, SearchResult, SimilarImage, check_file
from tercet.inference.features import ImageFeatures
from tercet.models.build import build
from tercet.models.classifier import Classifier
from tercet.models.layers import AttentionPooling
from tercet.models.members import default_members, resolve_member
from tercet.models.registry import registered_network
from tercet.models.weight_check import check_weights

_Networks = dict[str, tuple[Classifier, ModelConfig]]
"""Networks with their options, by name."""


def embed(data: DataLike, /, *, console: Console | bool | None = None, **options: Unpack[EmbedOptions]) -> Embeddings:
    """Return the features of all images of a data set, of a frozen network or of a trained model.

    Features are stored for all commands, and each is computed once. Unreadable images are listed in the result.

    Args:
        data: Folder of images, also without classes; table, zip, name of a data set, list of files; or Python objects,
            such as `(images, labels)`, a DataFrame or a Dataset.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: Options of `tercet embed`, such as `network="resnet18"`, `model="runs/photos-1"`.

    Raises:
        TercetError: See `tercet.core.errors`.
    """
    return run_embed(data, EMBED.parse_object(options), console=as_console(console))


def run_embed(
    data: DataLike, parsed: ParsedArguments, *, console: Console, file: str | Path | None = None
) -> Embeddings:
    """Return the features, and write them to a file if given, from parsed options."""
    config = _data_config(parsed)
    if file is not None:
        _check_output(Path(file), data)
    prepared = _decode(_table(data, config), config)
    embeddings = _embed(prepared, _networks(parsed.of(EncoderConfig), prepared), parsed, console)
    if file is not None:
        embeddings.save(file)
    return embeddings


def search(
    data: DataLike,
    images: ImageLike,
    /,
    *,
    top: int = 10,
    console: Console | bool | None = None,
    **options: Unpack[EmbedOptions],
) -> SearchResult:
    """Return the images of a data set that are most similar to some images, by the cosine similarity of features.

    An image of the data is not among its own results. Unreadable images are listed in the result.

    Args:
        data: See `embed`.
        images: Image files or folders, inside or outside the data; or arrays or PIL images.
        top: Number of images to list per searched image.
        console: Console for progress, `False` for none (default: standard error, or the notebook).
        **options: See `embed`.

    Raises:
        TercetError: See `tercet.core.errors`.
    """
    return run_search(data, images, SEARCH.parse_object({"top": top, **options}), console=as_console(console))


def run_search(data: DataLike, images: ImageLike, parsed: ParsedArguments, *, console: Console) -> SearchResult:
    """Search with parsed options."""
    config, top = _data_config(parsed), parsed.of(SearchConfig).top
    files = _paths(images)
    queries = _decode(table_from_arrays(images) if files is None else _table_of_files(files, config), config)
    prepared = _decode(_table(data, config), config)
    networks = _networks(parsed.of(EncoderConfig), prepared)
    gallery = _embed(prepared, networks, parsed, console)
    searched = _embed(queries, networks, parsed, console)
    similarities = np.clip(searched.unit() @ gallery.unit().T, -1, 1)  # Q N
    real = np.array([os.path.realpath(path) for path in gallery.paths], dtype=np.str_)
    nearest = {}
    for row, path in enumerate(searched.paths):
        if files is not None and isinstance(prepared.table.source, FolderSource):
            similarities[row, real == os.path.realpath(path)] = -np.inf
        order = np.argsort(-similarities[row], kind="stable")[:top]
        nearest[path] = tuple(
            SimilarImage(gallery.paths[index], gallery.labels[index], float(similarities[row, index]))
            for index in order
            if np.isfinite(similarities[row, index])
        )
    bad, skipped = (*gallery.bad, *searched.bad), (*gallery.skipped, *searched.skipped)
    return SearchResult(nearest, bad, skipped)


def _data_config(parsed: ParsedArguments) -> DataConfig:
    """Return the options for reading the data: as in the training of a model, if one is given."""
    config, model = parsed.of(DataConfig), parsed.of(EncoderConfig).model
    return config if model is None else model_config(config, load_bundle(model).card)


def _check_output(file: Path, data: DataLike) -> None:
    """Raise if the file cannot be written, or would become a part of the data."""
    check_file(file)
    folder = Path(data).expanduser() if isinstance(data, (str, Path)) else None
    if folder is not None and folder.is_dir() and file.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{file} is inside the data, of which it would become a part: choose another folder")


def _paths(images: Any) -> list[str | Path] | None:
    """Return one or several paths as a list; None for other images."""
    if isinstance(images, (str, Path)):
        return [images]
    sequence = isinstance(images, Sequence) and len(images) and all(isinstance(item, (str, Path)) for item in images)
    return list(images) if sequence else None


def _table(data: DataLike, config: DataConfig) -> SampleTable:
    """Read labelled data, a list of files, or a folder of images without class folders."""
    if not isinstance(data, (str, Path)) and (files := _paths(data)) is not None:
        return _table_of_files(files, config)
    source = resolve_data(data, config)
    if not isinstance(source, SampleTable) and str(source).partition(":")[0] not in DATASETS:
        folder = Path(source).expanduser()
        names = [*folder.iterdir()] if folder.is_dir() else []
        if folder.is_dir() and not any(path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES for path in names):
            return _table_of_files([folder], config)
    return load_table(source, replace(config, max_bad_fraction=1.0), min_classes=0)


def _table_of_files(files: Sequence[str | Path], config: DataConfig) -> SampleTable:
    return table_of_files(files, follow_links=config.follow_links)


def _decode(table: SampleTable, config: DataConfig) -> DataModule:
    """Decode the images of a table; unreadable ones are dropped and listed.

    Raises:
        DataError: No image can be read.
    """
    if not len(table):
        raise DataError(f"{table.name} has no images")
    images, bad = ImageCache.decode(table, replace(config, max_bad_fraction=1.0))
    return DataModule(drop_unreadable(table, bad), images, tuple(bad))


def _networks(config: EncoderConfig, prepared: DataModule) -> _Networks:
    """Return the members of a trained model, or a network with trained weights.

    Raises:
        ConfigError: The network has random weights, or has no features of its own.
        ModelError: Model or weights are not available.
    """
    if config.model is not None:
        members = load_bundle(config.model).members
        custom = [member.name for member in members if member.classifier.custom]
        if custom:
            raise ConfigError(f"member {custom[0]} of {config.model} is a network of yours, whose features are unknown")
        return {member.name: (_as_encoder(member.classifier), member.config) for member in members}
    options = ModelConfig(weights=config.weights, input=config.input, head="linear")
    if config.network:
        network = config.network[0]
    else:
        (network,) = default_members(prepared.image_size, replace(options, head="logistic"))
    member = resolve_member(network, options, TrainingConfig())
    entry, model = registered_network(member.network), member.model
    trained = model.weights is not None or (model.pretrained if entry is None else entry.fitted)
    if not trained or model.recurrent != "none" or model.reads_map:
        raise ConfigError(
            f"--network {member.network} would give features of random weights: use a timm backbone with published "
            "weights, without `recurrent` and head attention, give --weights, or give a run as --model"
        )
    check_weights([member])
    shape = prepared.images.uniform_shape
    classifier = build(
        member.network,
        num_classes=2,
        config=model,
        channels=prepared.channels,
        image_size=None if shape is None else (shape[0], shape[1]),
    )
    return {member.name: (classifier, model)}


def _as_encoder(classifier: Classifier) -> Classifier:
    """Return a classifier whose backbone includes the layers after it that make a vector of a feature map."""
    layers = [] if isinstance(classifier.recurrent, nn.Identity) else [classifier.recurrent]
    layers += [layer for layer in classifier.head.children() if isinstance(layer, AttentionPooling)]
    if not layers:
        return classifier
    features = nn.Sequential(classifier.features, *layers)
    return Classifier(
        classifier.network,
        spec=classifier.spec,
        num_classes=classifier.num_classes,
        features=features,
        head=classifier.head,
    )


def _embed(prepared: DataModule, networks: _Networks, parsed: ParsedArguments, console: Console) -> Embeddings:
    device, workers = choose_device(parsed.of(EncoderConfig).device), parsed.of(DataConfig).num_workers
    table, rows = prepared.table, np.arange(len(prepared.table))
    features = ImageFeatures(prepared.images, device, workers)
    print_status(console, f"features of {count(len(table), 'image')} by {', '.join(networks)}")
    parts = [features.compute(classifier, config, rows).view(0)[:] for classifier, config in networks.values()]
    source, paths = table.source, table.locations
    if isinstance(source, FolderSource):
        paths = tuple(str(source.root / location) for location in table.locations)
    return Embeddings(
        ids=table.ids,
        labels=tuple(table.label_names()),
        paths=paths,
        features=np.concatenate(parts, axis=1),
        networks={name: part.shape[1] for name, part in zip(networks, parts, strict=True)},
        bad=prepared.bad,
        computed=features.cache.computed,
        reused=features.cache.reused,
        skipped=table.skipped,
    )
