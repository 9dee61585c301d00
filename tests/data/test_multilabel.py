"""Multi-label data: label formats of tables, stratified splits, saved samples and batches."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.fixtures.image_trees import ListedFiles

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.types import InputSpec
from tercet.data.image_cache import ImageCache
from tercet.data.in_memory import table_from_arrays
from tercet.data.load import load_table
from tercet.data.loader import ImageLoader
from tercet.data.readers.columns import parse_label_sets
from tercet.data.readers.table import read_table
from tercet.data.splits import assign_splits
from tercet.data.table import SampleTable, load_samples


def rows(content: str, **options: object) -> SampleTable:
    config = DataConfig(**options)  # type: ignore[arg-type]
    return read_table("t.csv", ListedFiles(content.encode()), config, name="t", what="t.csv")  # type: ignore[arg-type]


def label_sets(table: SampleTable) -> list[set[str] | None]:
    return [None if labels is None else set(labels) for labels in parse_label_sets(table.label_names())]


def table_of(membership: np.ndarray, **columns: object) -> SampleTable:
    count, width = membership.shape
    table = table_from_arrays(
        np.zeros((count, 2, 2), np.uint8), np.zeros(count, int), classes=[f"label-{k}" for k in range(width)], **columns
    )
    return replace(table, membership=membership.astype(bool))


def test_several_label_columns_make_name_value_labels() -> None:
    table_rows = rows("image,gender,season\na,Men,Fall\nb, ,Summer\nc,,\n", label_columns=("gender", "season"))
    assert label_sets(table_rows) == [{"gender=Men", "season=Fall"}, {"season=Summer"}, None]
    assert any("1 rows have no label" in note for note in table_rows.notes)


@pytest.mark.parametrize(
    ("cell", "separator", "labels"),
    [
        ("red striped", " ", ("red", "striped")),
        ("red   striped ", " ", ("red", "striped")),
        ("red|striped|red", "|", ("red", "striped")),
        ("dark red; striped;", ";", ("dark red", "striped")),
    ],
)
def test_separator_splits_a_cell(cell: str, separator: str, labels: tuple[str, ...]) -> None:
    table_rows = rows(f"image,label\na,{cell}\nb,\n", label_separator=separator)
    assert label_sets(table_rows) == [set(labels), None]


def test_indicator_columns_are_labels_and_zeros_are_known() -> None:
    table_rows = rows(
        "image,cat,dog,size\na,1,0,big\nb,0,0,\nc,,,\nd,1.0,true,small\n", label_columns=("cat", "dog", "size")
    )
    assert label_sets(table_rows) == [{"cat", "size=big"}, set(), None, {"cat", "dog", "size=small"}]


def test_conflicting_label_sets_are_an_error() -> None:
    with pytest.raises(DataError, match=r"lines 2 and 3: 'a' is both '\{x, y\}' and '\{x\}'"):
        rows("image,label\na,x|y\na,x\n", label_separator="|")
    assert len(rows("image,label\na,x|y\na,x | y\n", label_separator="|").ids) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_separator": ";"}, "no cell of label contains the separator ';'"),
        ({"label_columns": ("label", "lable")}, "no column 'lable', did you mean 'label'"),
        ({"label_columns": ("label", "label")}, "twice"),
    ],
)
def test_label_options_must_fit_the_table(options: dict, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        rows("image,label\na,x|y\n", **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"task": "multi"},
        {"task": "multi", "label_columns": ("label",)},
        {"task": "single", "label_separator": "|"},
        {"label_separator": ""},
        {"label_separator": "|", "class_balanced_sampling": True},
    ],
    ids=str,
)
def test_contradicting_label_options_are_errors(options: dict) -> None:
    with pytest.raises(ConfigError):
        DataConfig(**options)


def test_task_multi_accepts_single_labels() -> None:
    assert label_sets(rows("image,label\na,x\nb,y\n", label_separator="|", task="multi")) == [{"x"}, {"y"}]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Write sixteen images and a table with the columns colour and shape."""
    lines = ["image,colour,shape"]
    for index in range(16):
        Image.fromarray(np.full((4, 4), index * 9, np.uint8)).save(tmp_path / f"{index}.png")
        lines.append(f"{index}.png,{'red' if index % 2 else 'blue'},{'disc' if index % 4 < 2 else ''}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


BOTH_COLUMNS = {"label_columns": ("colour", "shape")}


def test_folder_with_a_multilabel_table(photos: Path) -> None:
    table = load_table(photos, DataConfig(**BOTH_COLUMNS))
    assert table.classes == ("colour=blue", "colour=red", "shape=disc")
    assert table.membership is not None and table.membership.sum(axis=0).tolist() == [8, 8, 8]
    assert table.class_counts().tolist() == [8, 8, 8] and set(table.labels) == {0}
    assert table.fingerprint() != load_table(photos, DataConfig(label_columns=("colour",))).fingerprint()


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("image,a,b\n0.png,0,0\n1.png,0,0\n", {"label_columns": ("a", "b")}),
        ("image,a,b\n0.png,,\n1.png,,\n", {"label_columns": ("a", "b")}),
        ("image,label\n0.png,\n1.png, \n", {"label_separator": " "}),
    ],
)
def test_only_empty_label_sets_are_an_error(content: str, options: dict, photos: Path) -> None:
    (photos / "labels.csv").write_text(content)
    with pytest.raises(DataError, match="all label sets are empty") as caught:
        load_table(photos, DataConfig(**options))
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_class_folders_have_no_label_sets(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name / "1.png")
    with pytest.raises(ConfigError, match="applies to tables"):
        load_table(tmp_path, DataConfig(label_separator=","))


def test_saved_samples_restore_label_sets_and_splits(photos: Path) -> None:
    table = load_table(photos, DataConfig(**BOTH_COLUMNS))
    table = assign_splits(table, DataConfig(val_fraction=0.25, test_fraction=0.25))
    table.save(photos / "saved.csv")
    restored = load_samples(photos / "saved.csv", name="x", classes=table.classes, multilabel=True)
    assert (restored.ids, restored.splits) == (table.ids, table.splits)
    assert np.array_equal(restored.membership, table.membership) and np.array_equal(restored.labels, table.labels)
    with pytest.raises(DataError, match="not a class of the run"):
        load_samples(photos / "saved.csv", name="x", classes=("colour=blue", "colour=red"), multilabel=True)


@pytest.mark.parametrize("cell", ["{}", '["a", 1]', "red", '["a"'])
def test_invalid_label_set_cells_are_errors(cell: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_label_sets([cell])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 120), st.integers(2, 8), st.floats(0.1, 0.4), st.booleans())
@pytest.mark.filterwarnings("ignore:.*too small to be held out:UserWarning")
def test_multilabel_splits_are_stratified_and_keep_every_label(
    seed: int, count: int, width: int, fraction: float, grouped: bool
) -> None:
    generator = np.random.default_rng(seed)
    membership = generator.random((count, width)) < generator.random(width) * 0.9 + 0.05
    groups = [f"g{row // 3}" for row in range(count)] if grouped else None
    config = DataConfig(test_fraction=fraction, val_fraction=0.2)
    table = assign_splits(table_of(membership, groups=groups), config)
    train, test = table.rows_of("train"), table.rows_of("test")
    assert table.classes_in(np.arange(count)) == table.classes_in(train)
    assert len(test) == pytest.approx(fraction * count, abs=0.06 * count + 3)
    if not grouped:
        counts, total = membership[test].sum(axis=0), membership.sum(axis=0)
        assert np.abs(counts - fraction * total).max() <= max(4, 0.1 * total.max())
    assert assign_splits(table_of(membership, groups=groups), config).splits == table.splits


def test_rare_labels_stay_in_train_with_a_warning() -> None:
    membership = np.zeros((60, 3), dtype=bool)
    membership[:, 0], membership[::2, 1], membership[7, 2] = True, True, True
    with pytest.warns(UserWarning, match="1 class too small to be held out .*label-2"):
        table = assign_splits(table_of(membership), DataConfig())
    assert table.splits is not None and table.splits[7] == "train"


def test_limit_keeps_every_label() -> None:
    membership = np.zeros((100, 4), dtype=bool)
    membership[:, 0], membership[50:, 1], membership[3, 2], membership[4, 3] = True, True, True, True
    table = assign_splits(table_of(membership), DataConfig(limit=10, val_fraction=0, test_fraction=0))
    train_rows = table.rows_of("train")
    assert len(train_rows) == 10 and table.classes_in(train_rows) == {0, 1, 2, 3}


def test_rows_with_unknown_label_sets_are_left_out() -> None:
    membership = np.ones((20, 2), dtype=bool)
    table = replace(table_of(membership), labels=np.array([-1] * 5 + [0] * 15))
    split_table = assign_splits(table, DataConfig())
    assert split_table.splits is not None and set(split_table.splits[:5]) == {""}
    assert split_table.targets([0, 5]).tolist() == [[-1, -1], [1, 1]] and split_table.classes_in([0]) == {0, 1}


def loader(membership: np.ndarray | None, **options: object) -> ImageLoader:
    store = ImageCache.decode(table_from_arrays(np.zeros((6, 4, 4), np.uint8)), DataConfig())[0]
    ids = [str(row) for row in range(6)]
    spec = InputSpec(size=(4, 4), channels=1)
    return ImageLoader(
        store,
        range(6),
        ids=ids,
        labels=membership,
        num_classes=3,
        specs=[spec],
        batch_size=4,
        **options,  # type: ignore[arg-type]
    )


def test_multilabel_batches_have_float_targets_and_hard_labels() -> None:
    membership = np.random.default_rng(0).integers(0, 2, (6, 3))
    first, second = loader(membership).epoch(0)
    assert first.targets is not None and first.targets.is_floating_point() and first.targets.shape == (4, 3)
    assert first.labels is not None and np.array_equal(np.concatenate([first.labels, second.labels]), membership)
    mixed = next(loader(membership, mixup=0.4).epoch(0))
    assert mixed.targets is not None and ((mixed.targets >= 0) & (mixed.targets <= 1)).all()
    assert np.array_equal(mixed.labels, membership[:4])
    assert next(loader(np.full((6, 3), -1)).epoch(0)).targets is None
