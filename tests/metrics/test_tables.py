"""Text tables: content, 80 columns, and escaped names."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tercet.core.output import printable
from tercet.core.predictions import Predictions
from tercet.metrics.classification import score
from tercet.metrics.significance import compare
from tercet.metrics.table import Table, short_count
from tercet.metrics.tables import (
    ResultRow,
    classes_table,
    comparison_text,
    mistakes_text,
    pairs_table,
    results_table,
)

HOSTILE = ("[red]x[/red]", "\x1b[31mred\x1b[0m", "a\nb\tc", "[/]", "\u202egnp.exe", "\udcff")


def predictions(rows: int = 40, classes: tuple[str, ...] = HOSTILE) -> Predictions:
    generator = np.random.default_rng(0)
    labels = np.arange(rows) % len(classes)
    values = generator.dirichlet(np.ones(len(classes)), rows)
    return Predictions.of(values, classes=classes, labels=labels)


def rows(name: str = "row-bilstm") -> list[ResultRow]:
    scores = score(predictions())
    return [
        ResultRow("average", "ensemble", scores, chosen=True),
        ResultRow(name, "member", scores, seconds=123.4, parameters=216_426),
        ResultRow("small-cnn", "member", scores, seconds=4.56, parameters=51_123_258),
    ]


def test_members_come_first_and_the_chosen_row_is_marked() -> None:
    text = results_table(rows(), title="digits, test").to_text()
    parts = ("digits, test", "row-bilstm", "small-cnn", "* average", "chosen on validation")
    positions = [text.index(part) for part in parts]
    assert positions == sorted(positions)
    assert f"{rows()[0].scores['accuracy']:.4f}" in text
    assert "n = 40 samples" in text
    assert "216k" in text and "51.1M" in text and "123" in text and "4.6" in text


def test_different_numbers_of_samples_have_a_column() -> None:
    other = ResultRow("other", "member", score(predictions(17)))
    text = results_table([*rows(), other]).to_text()
    assert "n = " not in text
    assert " 17 " in text and " 40 " in text


def test_without_a_chosen_row_there_is_no_mark() -> None:
    assert "*" not in results_table(rows()[1:]).to_text()


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 200, "efficientnet_b0.ra_in1k"])
def test_tables_fit_80_columns_without_truncation(name: str) -> None:
    text = results_table(rows(name), title=name).to_text()
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"{value:.4f}" in text for value in {row.scores["accuracy"] for row in rows()})
    assert "…" not in text
    folded = "".join(line[:26].strip() for line in text.splitlines())
    assert printable(name)[:60] in folded


def test_markup_and_control_characters_in_names_are_escaped() -> None:
    for table in (
        classes_table(predictions()),
        pairs_table(predictions(), limit=40),
        results_table(rows("[red]x[/red]")),
    ):
        text = table.to_text()
        assert "[red]x[/red]" in text
        assert "\x1b" not in text and "\u202e" not in text and "\t" not in text
        text.encode("utf-8")
    assert "\\x1b[31mred" in classes_table(predictions()).to_text()


def test_printable_keeps_printable_characters() -> None:
    assert printable("Grüße [x] 猫 🐈") == "Grüße [x] 猫 🐈"
    assert printable("a\x1b[0m\n\udcff") == "a\\x1b[0m\\n\\udcff"


def test_a_class_without_samples_has_no_recall() -> None:
    table = classes_table(Predictions.of([[0.9, 0.1, 0.0]] * 2, classes=["cat", "dog", "owl"], labels=[0, 0]))
    cat, dog = (next(line for line in table.to_text().splitlines() if name in line).split() for name in ("cat", "dog"))
    assert cat == ["cat", "2", "1.000", "1.000", "1.000"]
    assert dog == ["dog", "0", "0.000", "-", "0.000"]


def test_pairs_table_has_count_and_share() -> None:
    truth, predicted = [0, 0, 0, 0], [0, 1, 1, 1]
    table = pairs_table(Predictions.of(np.eye(2)[predicted], classes=["cat", "dog"], labels=truth))
    assert "cat dog" in " ".join(table.to_text().split())
    assert "3 75.0 %" in " ".join(table.to_text().split())


def test_without_mistakes_there_is_no_table() -> None:
    right = Predictions.of(np.eye(2)[[0, 1]], classes=["cat", "dog"], labels=[0, 1])
    assert mistakes_text(right, model="x\n") == "no mistakes of x\\n\n"
    wrong = right.with_labels([1, 0])
    assert mistakes_text(wrong).startswith("most frequent mistakes\n") and "dog" in mistakes_text(wrong)


def test_a_table_is_wider_than_asked_rather_than_without_numbers() -> None:
    header = [f"column {number}" for number in range(20)]
    text = Table(["name", *header], [("x" * 30, *("0.12345",) * 20)], "l" + "r" * 20).to_text()
    assert text.count("0.12345") == 20 and "…" not in text and max(map(len, text.splitlines())) > 80
    wide = Table(["name", "n"], [("x" * 100, "1")], "lr")
    assert "x" * 100 in wide.to_text(width=120) and "x" * 100 not in wide.to_text()


def test_names_of_columns_are_divided_only_where_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = results_table(rows("x" * 30)).to_text()
    assert "accu-" in narrow and "accuracy" not in narrow
    monkeypatch.setenv("COLUMNS", "120")
    wide = results_table(rows("x" * 30)).to_text()
    assert "accuracy" in wide and "accu-" not in wide and max(map(len, wide.splitlines())) > 80


def test_text_and_html_have_the_same_cells() -> None:
    table = Table(["name", "score\nof it"], [("<b>", "0.5\n±0.1"), ("a\nb", "0.7")], "lr", "Title", note="remark")
    text, page = table.to_text(), table.to_html()
    assert text.splitlines()[0] == "Title" and "±0.1" in text and "a\\nb" in text and "remark" in text
    assert "&lt;b&gt;" in page and "a\\nb" in page and "Title; remark" in page
    with pytest.raises(ValueError, match="longer than its 1 columns"):
        Table(["name"], [("a", "b")]).to_html()


def test_rows_can_be_written_as_json() -> None:
    document = json.loads(json.dumps([row.to_dict() for row in rows()], allow_nan=False))
    assert document[0]["name"] == "average" and document[0]["chosen"] is True
    assert document[1]["parameters"] == 216_426 and document[1]["macro_f1"] == rows()[1].scores["macro_f1"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (216_426, "216k"), (697_130, "697k"), (999_949, "1.0M"),
     (1_642_596, "1.6M"), (51_123_258, "51.1M"), (143_730_386, "144M"), (999_600_000, "1.0G"), (7_000_000_000, "7.0G")],
)  # fmt: skip
def test_short_count(count: int, text: str) -> None:
    assert short_count(count) == text
    assert len(text) <= 5


def test_comparison_text_is_one_sentence_with_a_verdict() -> None:
    good = Predictions.of(np.eye(2)[[0] * 30], labels=[0] * 30)
    bad = Predictions.of(np.eye(2)[[0] * 10 + [1] * 20], labels=[0] * 30)
    text = comparison_text(compare(good, bad), "[b]good", "bad\n")
    assert "+66.67 points" in text and "only [b]good correct 20" in text and ": significant" in text
    assert "\n" not in text
    assert "not significant" in comparison_text(compare(good, good), "good", "good")


def test_scoring_prediction_files_imports_no_network_library() -> None:
    program = """
import sys, tercet.core.prediction_files
unexpected = {"torch", "sklearn", "scipy", "rich", "matplotlib"} & set(sys.modules)
import tercet.ensemble.cross_fit, tercet.metrics.tables
unexpected |= {"torch", "timm", "lightning", "matplotlib"} & set(sys.modules)
sys.exit(", ".join(sorted(unexpected)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
