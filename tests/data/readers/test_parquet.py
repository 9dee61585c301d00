"""Parquet files with images, as the library `datasets` writes them."""

import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.image_trees import picture

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.image_cache import ImageCache
from tercet.data.image_store import source_of
from tercet.data.load import load_table
from tercet.data.parquet_source import ParquetSource

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

FEATURES = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}


def png(value: int) -> bytes:
    stream = io.BytesIO()
    picture(value).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path, labels: list[Any], *, first: int = 0, rows: int = 2, features: Any = FEATURES, **columns: list[Any]
) -> Path:
    images = [{"bytes": png(first + row), "path": f"{first + row}.png"} for row in range(len(labels))]
    table = pa.table({"image": images, "label": labels, **columns})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(table, path, row_group_size=rows)
    return path


def test_images_classes_and_ids_of_a_file(tmp_path: Path) -> None:
    table = load_table(write(tmp_path / "pets.parquet", [0, 1, 0, -1, 1]), DataConfig())
    assert table.classes == ("cat", "dog") and table.labels.tolist() == [0, 1, 0, -1, 1]
    assert table.ids == ("0.png", "1.png", "2.png", "3.png", "4.png")
    for row in (4, 0, 3, 3, 1):
        pixels = table.source.pixels(table.locations[row], max_pixels=99)
        np.testing.assert_array_equal(pixels, np.asarray(picture(row)))
    assert isinstance(table.source, ParquetSource)
    restored = source_of(pickle.loads(pickle.dumps(table.source)).describe())
    assert restored.digest(table.locations[2]) == table.source.digest(table.locations[2])
    assert table.fingerprint() == load_table(tmp_path / "pets.parquet", DataConfig()).fingerprint()


def test_files_of_splits_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "data/train-00000-of-00002.parquet", [0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", [1, 0], first=2)
    write(tmp_path / "data/test-00000-of-00001.parquet", [0, -1], first=4)
    table = load_table(tmp_path, DataConfig())
    assert sorted(table.splits or ()) == ["test"] * 2 + ["train"] * 4
    for sample, location in zip(table.ids, table.locations, strict=True):
        pixels = table.source.pixels(location, max_pixels=99)
        np.testing.assert_array_equal(pixels, np.asarray(picture(int(sample.split(".")[0]))))
    images, bad = ImageCache.decode(table, DataConfig())
    assert not bad and len(images) == 6


def test_large_row_groups_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", [row % 2 for row in range(12)], rows=9)
    monkeypatch.setattr("tercet.data.parquet_source._GROUP_BYTES", 0)
    monkeypatch.setattr("tercet.data.parquet_source._BATCH_ROWS", 2)
    source = load_table(path, DataConfig()).source
    for row in (0, 1, 8, 11, 9, 3, 2, 10, 0):
        assert source.checksum(f"x.parquet#{row}") and source.content(f"x.parquet#{row}") == png(row)  # type: ignore[attr-defined]


@pytest.mark.parametrize("group_bytes", [0, 1 << 26])
def test_threads_read_their_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group_bytes: int) -> None:
    path = write(tmp_path / "x.parquet", [row % 2 for row in range(60)], rows=7)
    monkeypatch.setattr("tercet.data.parquet_source._GROUP_BYTES", group_bytes)
    monkeypatch.setattr("tercet.data.parquet_source._BATCH_ROWS", 2)
    source = load_table(path, DataConfig()).source
    assert isinstance(source, ParquetSource)
    rows = np.random.default_rng(0).integers(0, 60, 600).tolist()
    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(lambda row: source.content(f"x.parquet#{row}"), rows))
    images = [png(row) for row in range(60)]
    assert contents == [images[row] for row in rows]


def test_side_columns_and_options_are_those_of_tables(tmp_path: Path) -> None:
    columns = {"patient": ["a", None, "b", "a"], "split": ["train", "validation", "test", "train"]}
    path = write(tmp_path / "x.parquet", ["cat", "nan", "dog", None], features=None, **columns)
    table = load_table(path, DataConfig(group_column="patient"))
    assert table.labels.tolist() == [0, -1, 1, -1] and table.splits == ("train", "val", "test", "train")
    assert table.groups == ("a", "=1.png", "b", "a")


def test_plain_bytes_and_lists_of_labels(tmp_path: Path) -> None:
    table = pa.table({"pixels": [png(0), png(1)], "labels": [[0, 1], [1]]})
    features = {"labels": {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"'labels' are lists, such as \[\"cat\", \"dog\"\]"):
        load_table(tmp_path / "x.parquet", DataConfig())
    samples = load_table(tmp_path / "x.parquet", DataConfig(label_separator="|"))
    assert samples.membership is not None and samples.membership.tolist() == [[True, True], [False, True]]
    assert samples.source.pixels(samples.locations[1], max_pixels=99).shape == (5, 6, 3)


def test_paths_of_image_files(tmp_path: Path) -> None:
    for value in range(2):
        picture(value).save(tmp_path / f"{value}.png")
    parquet.write_table(pa.table({"file_name": ["0.png", "1.png"], "label": [3, 4]}), tmp_path / "x.parquet")
    table = load_table(tmp_path / "x.parquet", DataConfig())
    assert table.locations == ("0.png", "1.png") and table.classes == ("3", "4")


def test_rows_without_bytes_are_unreadable(tmp_path: Path) -> None:
    images = [{"bytes": png(0), "path": "0.png"}, {"bytes": None, "path": "1.png"}, {"bytes": b"x", "path": "2.png"}]
    parquet.write_table(pa.table({"image": images, "label": ["a", "b", "a"]}), tmp_path / "x.parquet")
    table = load_table(tmp_path / "x.parquet", DataConfig())
    with pytest.raises(DataError, match=r"row 1 of .*has no image bytes"):
        table.source.pixels("x.parquet#1", max_pixels=99)
    with pytest.raises(DataError, match="not an image"):
        table.source.pixels("x.parquet#2", max_pixels=99)


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", [0, 1])
    content = path.read_bytes()
    for end in range(0, len(content) - 40, 40):
        path.write_bytes(content[:end] + b"?" * 40 + content[end + 40 :])
        try:
            table = load_table(path, DataConfig())
            for location in table.locations:
                table.source.pixels(location, max_pixels=99)
        except (DataError, ConfigError) as error:
            assert "\n" not in str(error)
    path.write_bytes(content[:-10])
    with pytest.raises(DataError, match="cannot read"):
        load_table(path, DataConfig())


def test_files_of_other_columns_are_errors(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [0, 1])
    write(tmp_path / "b.parquet", [0, 1], other=[1, 2])
    with pytest.raises(DataError, match="has the columns image, label, other"):
        load_table(tmp_path, DataConfig())
