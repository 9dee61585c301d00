"""Any content of a table is read or refused, never with another exception."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.fixtures.image_trees import ListedFiles, picture

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.load import load_table
from tercet.data.readers.table import read_table
from tercet.data.table import SampleTable, load_samples

WORDS = [
    "nan",
    "None",
    "-1",
    "1",
    "0",
    "1.0",
    "yes",
    "-",
    "+",
    "?",
    "train",
    "eval",
    "a.png",
    "A.PNG",
    "b\\c.png",
    "",
    " ",
]
NAMES = ["image", "file_name", "label", "class", "A", "B", ""]
SIDE_NAMES = ["split", "fold", "is_valid", "weight", "id", "g"]
CELLS = st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=["Cs"]), max_size=6))
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "label_columns": st.sampled_from([("A",), ("A", "B"), ("label",)]),
        "label_separator": st.sampled_from(["|", " "]),
        "missing_labels": st.sampled_from([(), ("",), ("0", "x")]),
        "uncertain": st.sampled_from(["negative", "positive", "ignore"]),
        "group_column": st.just("g"),
        "weight_column": st.just("weight"),
        "split_column": st.sampled_from(["none", "split"]),
        "task": st.sampled_from(["auto", "single", "multi"]),
        "image_pattern": st.sampled_from(["{id}.png", "{image}"]),
        "max_bad_fraction": st.just(1.0),
    },
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Return any text in the form of a table, or one with the columns image and label, or A and B."""
    labels = draw(st.sampled_from([("label",), ("A", "B"), ("A", "B", "label")]))
    header = ["image", *labels, *draw(st.lists(st.sampled_from(SIDE_NAMES), max_size=3, unique=True))]
    if any_header := draw(st.integers(0, 3)) == 0:
        header = draw(st.lists(st.one_of(st.sampled_from([*NAMES, *SIDE_NAMES]), CELLS), min_size=1, max_size=6))
    kind = draw(
        st.sampled_from([CELLS, st.sampled_from(["0", "1", "1.0", "", "-1"]), st.sampled_from(["x", "nan", "y"])])
    )
    rows = []
    for row in range(draw(st.integers(0, 6))):
        cells = draw(st.lists(kind, min_size=len(header), max_size=len(header)))
        rows.append(cells if any_header else [f"{row}.png", *cells[1:]])
    delimiter, quote = draw(st.sampled_from([",", ";", "\t"])), draw(st.sampled_from(["", '"']))
    return "\n".join(delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in [header, *rows])


def configured(options: dict) -> DataConfig | None:
    with suppress(ConfigError):
        return DataConfig(**options)
    return None


@settings(max_examples=300, deadline=None)
@given(tables(), OPTIONS, st.sampled_from(["t.csv", "t.tsv", "t.txt", "t.jsonl"]))
@pytest.mark.filterwarnings("ignore:classes .* differ only in case:UserWarning")
def test_any_table_is_read_or_refused(content: str, options: dict, name: str) -> None:
    config = configured(options)
    if config is None:
        return
    try:
        table = read_table("t", ListedFiles(content.encode()), config, name="t", what=name)
    except (DataError, ConfigError) as error:
        assert str(error)
    else:
        assert (len(table) and table.num_classes and not {"nan", "None", "?", "-1.0"} & set(table.classes)) or (
            config.missing_labels is not None
        )
        assert not any(name.endswith(("=-1", "=-1.0", "=nan")) for name in table.classes)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.sampled_from(["t.csv", "t.tsv", "t.txt", "t.jsonl"]))
def test_any_bytes_are_read_or_refused(content: bytes, name: str) -> None:
    with suppress(DataError, ConfigError):
        read_table("t", ListedFiles(content), DataConfig(), name="t", what=name)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
@pytest.mark.filterwarnings("ignore:classes .* differ only in case:UserWarning")
def test_what_is_read_from_a_folder_is_restored_from_its_samples(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    for value, name in enumerate(["a.png", "Ä.png", "b/c.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(value).save(tmp_path / name)
    lines = [f'"{name}","{label}"' for name, label in [*rows, ("a.png", "x")]]
    (tmp_path / "t.csv").write_bytes("\n".join(["image,label", *lines]).encode())
    table: SampleTable | None = None
    with suppress(DataError, ConfigError):
        table = load_table(tmp_path / "t.csv", DataConfig(max_bad_fraction=0.9), min_classes=1)
    if table is not None:
        table.with_splits(["train"] * len(table)).save(tmp_path / "saved.csv")
        restored = load_samples(tmp_path / "saved.csv", name="x", classes=table.classes)
        assert restored.ids == table.ids and restored.label_names() == table.label_names()
