"""Labelled images as Python objects become tables, or are refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fixtures.bundles import make_bundle

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.data_module import prepare_data
from tercet.data.in_memory import resolve_data, table_from_arrays
from tercet.data.load import load_table
from tercet.data.table import SampleTable

X = np.random.default_rng(0).integers(0, 256, (6, 8, 7), dtype=np.uint8)
COLOUR = np.repeat(X[..., None], 3, axis=3)
NAMES = list("abcabc")
CONFIG = DataConfig()


class Pairs(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Items (image, label) of any kind."""

    def __init__(self, items: list[Any], classes: Any = None) -> None:
        self.items = items
        if classes is not None:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def table_of(data: Any, config: DataConfig = CONFIG) -> SampleTable:
    table = resolve_data(data, config)
    assert isinstance(table, SampleTable)
    return table


def pixels(table: SampleTable) -> list[Any]:
    return [table.source.pixels(location, max_pixels=10_000) for location in table.locations]


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    for index, image in enumerate(X):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    return [str(tmp_path / f"{index}.png") for index in range(len(X))]


def test_all_kinds_of_images_give_the_same_table(paths: list[str]) -> None:
    forms: list[Any] = [
        (X, NAMES),
        (X[..., None], np.array(NAMES)),
        (X / 255, tuple(NAMES)),
        ((X / 255).astype(np.float16), pandas.Series(NAMES)),
        (torch.tensor(X)[:, None], NAMES),
        (list(X), NAMES),
        ([Image.fromarray(image) for image in X], NAMES),
        (paths, NAMES),
        (np.array(paths), NAMES),
        ([Path(path) for path in paths], NAMES),
        (pandas.Series(paths), NAMES),
        (pandas.DataFrame({"path": paths}), NAMES),
        pandas.DataFrame({"path": paths, "label": NAMES}),
        Pairs([(Image.fromarray(image), name) for image, name in zip(X, NAMES, strict=True)]),
        Pairs([(image, name) for image, name in zip(X, NAMES, strict=True)]),
        Pairs([(torch.tensor(image[None]).float() / 255, row % 3) for row, image in enumerate(X)], list("abc")),
        Pairs([(torch.tensor(image[None]), torch.tensor(row % 3)) for row, image in enumerate(X)], list("abc")),
        table_from_arrays(X, NAMES),
    ]
    for form in forms:
        table = table_of(form)
        assert table.classes == ("a", "b", "c") and table.labels.tolist() == [0, 1, 2, 0, 1, 2], form
        np.testing.assert_array_equal(np.stack(pixels(table)), X[..., None])


def test_all_kinds_of_images_are_classified(paths: list[str]) -> None:
    bundle = make_bundle("average")
    expected = bundle.predict(X[..., None]).probabilities
    dataset = Pairs([(Image.fromarray(image), 0) for image in X])
    frame = pandas.DataFrame({"file": paths})
    for form in (list(X), X[..., None] / 255, torch.tensor(X)[:, None], dataset, frame, table_from_arrays(X)):
        predictions = bundle.predict(form)
        assert np.array_equal(predictions.probabilities, expected), type(form)
    assert bundle.predict(frame).ids == tuple(paths)


def test_paths_names_and_tables_are_returned_as_they_are(tmp_path: Path) -> None:
    for data in ("digits", "photos/", tmp_path, table_from_arrays(X, NAMES)):
        assert resolve_data(data, CONFIG) is data


def test_integers_are_names_of_classes_unless_classes_are_given() -> None:
    assert table_of((X, [10, 9, 10, 9, -1, 9])).classes == ("9", "10")
    assert table_of((X, [10, 9, 10, 9, -1, 9])).labels.tolist() == [1, 0, 1, 0, -1, 0]
    assert table_of((X, [True, False] * 3)).classes == ("False", "True")
    assert table_from_arrays(X, [0, 2, 0, 2, 0, 2], classes=list("abc")).label_names() == list("acacac")


@pytest.mark.parametrize(
    "labels",
    [
        np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 1]]),
        [[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 1]],
        [{"0"}, {"0", "1"}, set(), {"1"}, {"0"}, {"1"}],
        [["0"], ["1", "0"], [], ["1"], ["0"], ["1"]],
    ],
)
def test_label_sets_are_multilabel_data(labels: Any) -> None:
    table = table_of((X, labels))
    assert table.classes == ("0", "1") and table.membership is not None
    assert table.membership.tolist() == [[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 1]]
    with pytest.raises(ConfigError, match="only tercet train supports label sets"):
        prepare_data(table, CONFIG)


def test_images_of_different_sizes_and_channels_are_stored_together() -> None:
    items = [(X[0], "a"), (X[1][:4], "b"), (COLOUR[2], "a"), (X[3], "b"), (COLOUR[4][:, :5], "a"), (X[5], "b")] * 4
    prepared = prepare_data(table_of(Pairs(items)), CONFIG)
    assert prepared.channels == 3 and len(prepared.table) == 24
    assert [prepared.images.read(row).shape for row in (0, 1, 4)] == [(8, 7, 3), (4, 7, 3), (8, 5, 3)]


@pytest.mark.filterwarnings("ignore:.*too small to be held out")
def test_copies_of_a_file_stay_in_one_split(paths: list[str]) -> None:
    table = table_of((paths * 3, list("aaabbb") * 3))
    assert len(set(table.ids)) == 18 and table.groups == tuple(paths * 3)
    prepared = prepare_data(table, CONFIG)
    assert len(prepared.table) == 18


def test_a_frame_is_read_as_a_table(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(paths[0]).parent)
    frame = pandas.DataFrame(
        {"where": [Path(path).name for path in paths], "kind": NAMES, "who": list("112233"), "split": ["train"] * 6}
    )
    config = DataConfig(image_column="where", label_columns=("kind",), group_column="who")
    table = table_of(frame, config)
    assert table.groups == tuple("112233") and table.splits == ("train",) * 6
    assert load_table(table, config, min_classes=2) is table
    with pytest.raises(ConfigError, match=r"image.column"):
        resolve_data((X, NAMES), config)


class Broken(Pairs):
    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("no such record")


LOADER: Any = torch.utils.data.DataLoader(Pairs([(X[0], 0)]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "expected a folder, table, arrays or Dataset, got int"),
        (None, "got NoneType"),
        ({}, "got dict"),
        (X.astype(float), r"got ndarray of shape \(6, 8, 7\) and type float64: give images and labels as a pair"),
        (LOADER, "got DataLoader: give its dataset"),
        ((X, None), "a pair without labels"),
        ((X.reshape(6, -1), NAMES), r"got ndarray of shape \(6, 56\) and type uint8.*X.reshape"),
        ((np.moveaxis(COLOUR, 3, 1), NAMES), r"X.transpose\(0, 2, 3, 1\)"),
        ((X.astype(int), NAMES), r"convert with X.astype\('uint8'\)"),
        ((X.astype(float), NAMES), r"values from 0 to 255.*\(X \* \(255 / X.max\(\)\)\)"),
        ((X / 300, NAMES), r"convert with \(X \* 255\).round\(\).astype\('uint8'\)"),
        ((X / 255 - 0.5, NAMES), r"convert with \(\(X - X.min\(\)\)"),
        ((X / np.nan, NAMES), "not finite"),
        ((X, NAMES[:5]), "5 labels for 6 images"),
        ((X, "abcabc"), "labels are str"),
        ((X, 1), "labels are int"),
        ((X, [1, 2, np.nan, 1, 2, 1]), "label 2 is nan"),
        ((X, ["a", "b", None, "a", "b", "a"]), "label 2 is None"),
        ((X, np.array(["a", "b", np.nan, "a", "b", "a"])), "label 2 is nan"),
        ((X, ["a", "b", float("nan"), "a", "b", "a"]), "label 2 is nan"),
        ((X, [0.5] * 6), r"type float64, expected N class names or integers \(y.astype\(int\)\)"),
        ((X, [[0, 2]] * 6), r"N K of 0 and 1"),
        ((X, [[0], [1, 0], 1, 0, 1, 0]), "labels are not an array"),
        ((X, [{"a"}, "b", {"a"}, {"a"}, {"a"}, {"a"}]), "label 1 is 'b', and other labels are sets"),
        ((X[:0], []), "there are no images"),
        (([], []), "there are no images"),
        ((["absent.png"], ["a"]), "1 of 1 images are not files, such as absent.png"),
        (([X[0], np.zeros((5, 5, 4), np.uint8)], ["a", "b"]), r"image 1: a uint8 array of shape \(5, 5, 4\)"),
        ((Pairs([X[0]]), None), "a pair without labels"),
        (Pairs([X[0]]), "item 0 of Pairs has no label"),
        (Pairs([(X[0], 0), ("x", 1)]), "image 1: "),
        (Pairs([(X[0], 0), (X[1], float("nan"))]), "label 1 is nan"),
        (Pairs([]), "there are no images"),
        (Broken([0]), "item 0 of Broken cannot be read: RuntimeError: no such record"),
        (pandas.DataFrame({"path": ["a.png"]}), "no column label"),
        (pandas.DataFrame({"where": ["a.png"], "label": ["a"]}), "no column image, file"),
        (pandas.DataFrame({"path": [], "label": []}), "no rows"),
    ],
)
def test_other_values_are_refused_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_table(resolve_data(data, CONFIG), CONFIG)
    assert "\n" not in str(raised.value)


def test_a_dataset_beyond_the_memory_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"images of Pairs exceed data.memory_budget 100"):
        resolve_data(Pairs([(image, 0) for image in X]), DataConfig(memory_budget=100))


def test_data_from_memory_cannot_be_read_again_by_their_name() -> None:
    assert str(table_from_arrays(X, NAMES)) == "<arrays>"
    with pytest.raises(DataError, match="were not stored before the run stopped"):
        load_table("<arrays>", CONFIG)


@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=8),
    st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_floats_that_are_bytes_are_converted_exactly(levels: list[int], kind: Any) -> None:
    images = np.array(levels, dtype=np.uint8)[:, None, None]
    table = table_from_arrays((images / 255).astype(kind))
    assert np.array_equal(np.stack(pixels(table))[..., 0], images)


@given(st.lists(st.one_of(st.integers(-2, 3), st.none(), st.floats(), st.text(max_size=2)), min_size=1, max_size=6))
def test_any_labels_are_read_or_refused(labels: list[Any]) -> None:
    try:
        table = table_from_arrays(np.zeros((len(labels), 2, 2), np.uint8), labels)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert len(table) == len(labels)
