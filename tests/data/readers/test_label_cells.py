"""Label cells: words for missing labels, indicator columns, uncertain values, one-hot columns."""

import pytest
from tests.fixtures.image_trees import ListedFiles

from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.data.readers.table import read_table
from tercet.data.table import SampleTable


def rows(content: str, **options: object) -> SampleTable:
    config = DataConfig(**options)  # type: ignore[arg-type]
    return read_table("t.csv", ListedFiles(content.encode()), config, name="t", what="t.csv")


def labelled(*labels: str, **options: object) -> SampleTable:
    lines = [f'{row}.jpg,"{label}"' for row, label in enumerate(labels)]
    return rows("\n".join(["image,label", *lines]) + "\n", **options)


def indicators(*lines: str, **options: object) -> SampleTable:
    """Return the table of the columns A and B."""
    content = "image,A,B\n" + "".join(f"{row}.jpg,{line}\n" for row, line in enumerate(lines))
    return rows(content, **{"label_columns": ("A", "B"), **options})


def label_sets(table: SampleTable) -> list[str]:
    return [name.replace('"', "") for name in table.label_names()]


@pytest.mark.parametrize(
    "word",
    ["nan", "NaN", "NAN", "None", "NULL", "null", "N/A", "n/a", "NA", "<NA>", "#N/A", "?", "-", "--", " nan ", r"\N"],
)
def test_words_for_missing_values_are_unlabelled_and_counted(word: str) -> None:
    table = labelled("cat", word, "dog", word)
    assert table.classes == ("cat", "dog") and table.labels.tolist() == [0, -1, 1, -1]
    assert "2 rows have no label and are not used for training" in table.notes
    assert any(f"2 label cells are read as missing labels: '{word.strip()}' (2)" in note for note in table.notes)


@pytest.mark.parametrize("name", ["none", "NONE", "na", "unknown", "Missing"])
def test_names_that_may_mean_a_missing_label_are_classes_with_a_note(name: str) -> None:
    table = labelled("cat", name, "nan")
    assert set(table.classes) == {"cat", name}
    (note,) = [note for note in table.notes if "is read as a class" in note]
    option = note.split("--data.missing-labels ")[1]
    assert option == f"{name},nan"
    repaired = labelled("cat", name, "nan", missing_labels=tuple(option.split(",")))
    assert repaired.classes == ("cat",) and repaired.labels.tolist() == [0, -1, -1]


def test_given_words_replace_the_usual_ones() -> None:
    table = labelled("cat", "nan", "None", "todo", "", missing_labels=("todo",))
    assert table.classes == ("cat", "nan", "None") and table.labels.tolist() == [0, 1, 2, -1, -1]
    assert not any("is read as a class" in note for note in table.notes)


def test_signs_are_classes() -> None:
    assert labelled("+", "-", "+").classes == ("+", "-") or labelled("+", "-").num_classes == 2
    assert labelled("+", "-", "?").labels.tolist().count(-1) == 1


def test_minus_one_among_numbers_has_a_note() -> None:
    assert any("'-1' (1 rows) is read as a class" in note for note in labelled("0", "1", "-1").notes)
    assert labelled("0", "1", "-1", missing_labels=("-1",)).classes == ("0", "1")
    assert not any("-1" in note for note in labelled("1", "-1").notes)


def test_missing_words_between_separators_are_no_labels() -> None:
    table = labelled("cat|nan", "NULL", "dog|cat", label_separator="|")
    assert table.classes == ("cat", "dog") and label_sets(table) == ["[cat]", "", "[cat, dog]"]


def test_only_missing_labels_are_an_error_that_names_the_words() -> None:
    with pytest.raises(DataError, match=r"no row has a label; 2 label cells .*'nan' \(2\)"):
        labelled("nan", "nan")


@pytest.mark.parametrize(
    ("yes", "no"),
    [("1", "0"), ("1.0", "0.0"), ("True", "FALSE"), ("yes", "No"), ("Y", "n"), ("t", "F"), ("1", "-1"), ("x", "")],
)
def test_indicator_columns_are_read_in_every_spelling(yes: str, no: str) -> None:
    table = indicators(f"{yes},{yes}", f"{yes},{no}", f"{no},{yes}")
    assert table.classes == ("A", "B") and label_sets(table) == ["[A, B]", "[A]", "[B]"]


def test_blank_and_missing_cells_of_indicators_are_zero_and_counted() -> None:
    table = indicators("1,nan", "0,1", "1,1", ",", "N/A,1")
    assert label_sets(table) == ["[A]", "[B]", "[A, B]", "", "[B]"]
    assert any("2 blank cells of indicator columns are read as 0" in note for note in table.notes)


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [("negative", ["[A, B]", "[B]", "[]"]), ("positive", ["[A, B]", "[A, B]", "[A]"]), ("ignore", ["[A, B]", "", ""])],
)
def test_uncertain_cells_are_read_as_chosen(uncertain: str, expected: list[str]) -> None:
    lines = ("1.0,1.0", "-1.0,1.0", "-1,0")
    table = indicators(*lines, "0,0", uncertain=uncertain)
    assert label_sets(table)[:3] == expected and set(table.classes) == {"A", "B"}
    assert any("2 cells with -1 are read as" in note for note in table.notes)
    with pytest.raises(ConfigError, match=r"2 cells of indicator columns are -1, in 'A' \(line 3\).*--data.uncertain"):
        indicators(*lines, "0,0")


def test_minus_one_is_zero_in_a_column_of_one_and_minus_one() -> None:
    table = indicators("1,1", "-1,0", "1,", "-1,1")
    assert label_sets(table) == ["[A, B]", "[]", "[A]", "[B]"]
    assert "the column 'A' has only 1 and -1: -1 is read as 0" in table.notes


@pytest.mark.parametrize("value", ["maybe", "2", "0.5", "-2", "1e400", "2.0"])
def test_values_that_are_neither_yes_nor_no_are_one_line_of_error(value: str) -> None:
    with pytest.raises(DataError, match=rf"column 'A' has values other than .*'{value}' \(line 3\)") as error:
        indicators("1,1", f"{value},0", "0,1")
    assert "\n" not in str(error.value)


def test_columns_of_words_and_of_larger_numbers_are_categories() -> None:
    table = indicators("m,38", "f,40", "x,L")
    assert table.classes == ("A=f", "A=m", "A=x", "B=38", "B=40", "B=L")
    with pytest.raises(DataError, match="column 'B'"):
        indicators("m,-1.5", "f,38")


ONE_HOT = ("1,0", "0,1.0", "1,0")


def test_one_hot_columns_are_one_class_unless_they_are_chosen_as_labels() -> None:
    table = indicators(*ONE_HOT, ",")
    assert table.membership is None and table.labels.tolist() == [0, 1, 0, -1] and table.classes == ("A", "B")
    assert any("have exactly one 1 in every row and are read as one class" in note for note in table.notes)
    assert indicators(*ONE_HOT, task="multi").membership is not None
    assert indicators(*ONE_HOT, "0,0").membership is not None
    with pytest.raises(DataError, match=r"--data.task single needs exactly one 1 .*line 5 has 0"):
        indicators(*ONE_HOT, "0,0", task="single")


def test_one_hot_columns_without_options() -> None:
    content = "id,split,MEL,NV,BCC\na,train,1.0,0.0,0.0\nb,train,0.0,1.0,0.0\nc,test,0,0,1\n"
    table = rows(content)
    assert table.classes == ("BCC", "MEL", "NV") and [table.classes[label] for label in table.labels] == [
        "MEL",
        "NV",
        "BCC",
    ]
    assert table.splits == ("train", "train", "test")
    with pytest.raises(DataError, match=r"--data.label-columns"):
        rows(content.replace("0,0,1", "0,1,1"))
