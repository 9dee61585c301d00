from pathlib import Path

import pytest
from tests.fixtures.image_trees import ListedFiles

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.load import load_table
from tercet.data.readers.table import read_table
from tercet.data.table import SampleTable


def rows(content: str | bytes, config: DataConfig | None = None, *, name: str = "t.csv") -> SampleTable:
    source = ListedFiles(content.encode() if isinstance(content, str) else content)
    return read_table(name, source, config or DataConfig(), name="t", what=name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("image,label\na.jpg,cat\nb.jpg,dog\n", "t.csv"),
        ("image;label\na.jpg;cat\nb.jpg;dog\n", "t.csv"),
        ("image\tlabel\na.jpg\tcat\nb.jpg\tdog\n", "t.tsv"),
        ("image\tlabel\na.jpg\tcat\nb.jpg\tdog\n", "t.csv"),
        ("\ufeffimage,label\r\na.jpg,cat\r\nb.jpg,dog\r\n", "t.csv"),
        ('"image","label"\n"a.jpg","cat"\n\n"b.jpg","dog"', "t.csv"),
        ("image,label\ra.jpg,cat\rb.jpg,dog\r", "t.csv"),
        ("Label,FILENAME\ncat,a.jpg\ndog,b.jpg\n", "t.csv"),
        ("target,path,junk\ncat,a.jpg,1\ndog,b.jpg,2\n", "t.csv"),
    ],
)
def test_table_dialects(content: str, name: str) -> None:
    table_rows = rows(content, name=name)
    assert (table_rows.locations, table_rows.label_names()) == (("a.jpg", "b.jpg"), ["cat", "dog"])


def test_labels_are_exact_strings_and_blank_means_unlabelled() -> None:
    names = ["1", "01", "1.0", "none", "nA", "True", "", "  "]
    table_rows = rows("id,label\n" + "".join(f"00{index},{label}\n" for index, label in enumerate(names)))
    assert table_rows.label_names() == ["1", "01", "1.0", "none", "nA", "True", "", ""]
    assert table_rows.ids[7] == "007"
    assert table_rows.notes[0] == "2 rows have no label and are not used for training"


def test_file_names_with_newlines_commas_and_unicode() -> None:
    table_rows = rows('image,label\n"a\nb,c.jpg",x\n"ü😀 ""q"".jpg",y\n')
    assert table_rows.locations == ("a\nb,c.jpg", 'ü😀 "q".jpg')


def test_unique_id_column_provides_the_ids() -> None:
    assert rows("id,file,label\n7,a.jpg,x\n8,b.jpg,y\n").ids == ("7", "8")
    assert rows("id,file,label\n7,a.jpg,x\n7,b.jpg,y\n").ids == ("a.jpg", "b.jpg")


def test_image_pattern_makes_file_names() -> None:
    table_rows = rows("id,label\n07,x\n08,y\n", DataConfig(image_pattern="img/{id}.jpg"))
    assert table_rows.locations == ("img/07.jpg", "img/08.jpg") and table_rows.ids == ("07", "08")
    table_rows = rows("no,label\n07,x\n08,y\n", DataConfig(image_column="no", image_pattern="{label}/{id}.jpg"))
    assert table_rows.locations == ("x/07.jpg", "y/08.jpg")
    with pytest.raises(ConfigError, match="no column 'nope'"):
        rows("id,label\n07,x\n", DataConfig(image_pattern="{nope}.jpg"))
    with pytest.raises(ConfigError, match="contains no column"):
        rows("id,label\n07,x\n", DataConfig(image_pattern="x.jpg"))


def test_splits_folds_weights_and_groups_are_read() -> None:
    content = "image,label,Split,fold,weight,hand\na,x,TRAIN,0,1.5,h1\nb,y,Valid,1,2,h2\nc,y,testing,2,0.5,h1\n"
    table_rows = rows(content, DataConfig(group_column="hand", weight_column="weight"))
    assert table_rows.splits == ("train", "val", "test") and table_rows.groups == ("h1", "h2", "h1")
    assert table_rows.folds is not None and table_rows.folds.tolist() == [0, 1, 2]
    assert table_rows.weights is not None and table_rows.weights.tolist() == [1.5, 2.0, 0.5]
    assert rows(content).weights is None


@pytest.mark.parametrize("weight", ["nan", "inf", "0", "-1", "heavy", ""])
def test_weights_must_be_positive(weight: str) -> None:
    with pytest.raises(DataError, match=f"line 3: weight '{weight}' is not a positive number"):
        rows(f"image,label,w\na,x,1\nb,x,{weight}\n", DataConfig(weight_column="w"))


def test_duplicate_rows_are_counted_and_conflicts_are_errors() -> None:
    table_rows = rows("image,label\na,x\nb,y\na,x\n")
    assert table_rows.ids == ("a", "b") and table_rows.notes == ("1 rows are duplicates: a (lines 2 and 4)",)
    with pytest.raises(DataError, match="lines 2 and 4: 'a' is both 'x' and 'y'"):
        rows("image,label\na,x\nb,y\na,y\n")


def test_missing_images_are_counted() -> None:
    table_rows = rows(
        "image,label\na,x\n" + "".join(f"gone{index},x\n" for index in range(7)),
        DataConfig(max_bad_fraction=1.0),
    )
    assert len(table_rows.missing) == 7 and table_rows.ids == ("a",)
    assert (
        "7 of 8 listed images" in table_rows.notes[0]
        and "gone4 (line 7)" in table_rows.notes[0]
        and "gone5" not in table_rows.notes[0]
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,label\na,x\n".encode("utf-16"), "UTF-16"),
        ("image,label\na,x\n".encode("utf-16-le"), "NUL"),
        (b"image,label\na,x\nb\0,y\n", "line 3: a NUL"),
        (b"image,label\na,caf\xe9\n", "line 2: not UTF-8"),
        (b"image,label\na,x\nb,y,z\n", "line 3: 3 fields"),
        (b'image,label\na,x\n"b"c,y\n', "line 3: not a valid table"),
        (b"", "no rows"),
        (b"image,label\n", "no rows"),
        (b"picture,label\na,x\n", "--data.image-column"),
        (b"image,kind\na,x\n", "--data.label-columns"),
        (b"image,label,label\na,x,y\n", "two columns"),
        (b"image,label\n,x\n", "line 2: no file name"),
        (b"image,label,split\na,x,training\nb,x,extra\n", "line 3: split 'extra'"),
    ],
)
def test_invalid_tables_are_reported_with_line_numbers(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        rows(content)
    assert "\n" not in str(caught.value)


def test_configured_columns_must_exist_and_be_unambiguous() -> None:
    with pytest.raises(ConfigError, match="did you mean 'species'"):
        rows("image,species\na,x\n", DataConfig(label_columns=("specie",)))
    with pytest.raises(ConfigError, match="twice"):
        rows("image,a,b\na,x,y\n", DataConfig(label_columns=("a", "a")))
    with pytest.raises(ConfigError, match="could all be the label"):
        rows("image,label,class\na,x,y\n")
    assert rows("image,label,class\na,x,y\n", DataConfig(label_columns=("class",))).classes == ("y",)


def load(pets: Path, text: str, **options: object) -> SampleTable:
    (pets / "t.csv").write_text(text)
    return load_table(pets / "t.csv", DataConfig(**options))  # type: ignore[arg-type]


def test_table_beside_its_images(pets: Path) -> None:
    table = load(pets, "image,label\ncat/1.png,b10\n./dog/../cat/2.png,b9\n")
    assert table.classes == ("b9", "b10") and table.locations == ("cat/1.png", "cat/2.png")
    assert table.source.pixels(table.locations[0], max_pixels=100).shape == (5, 6, 3)


def test_absolute_paths_within_the_folder_are_accepted(pets: Path) -> None:
    table = load(pets, f"image,label\n{pets}/cat/1.png,a\ndog/1.png,b\n")
    assert table.locations == ("cat/1.png", "dog/1.png")


@pytest.mark.parametrize("name", ["../outside.png", "cat/../../outside.png", "/etc/passwd", "C:\\x.png", "leak.png"])
def test_paths_outside_the_folder_are_errors(pets: Path, name: str) -> None:
    outside = pets.parent / "outside.png"
    outside.write_bytes((pets / "cat/1.png").read_bytes())
    (pets / "leak.png").symlink_to(outside)
    with pytest.raises(DataError, match=r"line 3: .*is outside"):
        load(pets, f"image,label\ncat/1.png,a\n{name},b\n")


def test_too_many_missing_images_are_an_error(pets: Path) -> None:
    text = "id,label\n" + "".join(f"{index},{index % 2}\n" for index in range(5))
    with pytest.raises(DataError, match=r"image-pattern"):
        load(pets, text)
    assert len(load(pets, text, image_pattern="cat/{id}.png")) == 5
    text = "image,label\n" + "".join(f"cat/{index}.png,{index % 2}\n" for index in range(12))
    table = load(pets, text, max_bad_fraction=0.2)
    assert len(table) == 10 and "2 of 12 listed images do not exist" in table.notes[0]


def test_two_paths_of_one_file_are_one_image(pets: Path) -> None:
    with pytest.raises(DataError, match="both 'a' and 'b'"):
        load(pets, "image,label\ncat/1.png,a\n./cat/1.png,b\n")
