"""Tables show every number within 80 columns, and names are never obeyed."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tercet.core.predictions import Predictions
from tercet.metrics.classification import score
from tercet.metrics.significance import compare
from tercet.metrics.tables import (
    ResultRow,
    as_text,
    classes_table,
    comparison_text,
    pairs_table,
    printable,
    results_table,
    short_count,
)

HOSTILE = ("[red]x[/red]", "\x1b[31mred\x1b[0m", "a\nb\tc", "[/]", "\u202egnp.exe", "\udcff")


def predictions(rows: int = 40, classes: tuple[str, ...] = HOSTILE) -> Predictions:
    generator = np.random.default_rng(0)
    width = len(classes)
    labels = np.arange(rows) % width
    values = generator.dirichlet(np.ones(width), rows)
    return Predictions.of(values, classes=classes, labels=labels)


def rows(name: str = "row-bilstm") -> list[ResultRow]:
    scores = score(predictions())
    return [
        ResultRow("average", "ensemble", scores, chosen=True),
        ResultRow(name, "member", scores, seconds=123.4, parameters=216_426),
        ResultRow("small-cnn", "member", scores, seconds=4.56, parameters=51_123_258),
    ]


def test_every_row_is_there_members_first_and_the_chosen_one_marked() -> None:
    text = as_text(results_table(rows(), title="digits, test"))
    places = [
        text.index(name) for name in ("digits, test", "row-bilstm", "small-cnn", "* average", "chosen on validation")
    ]
    assert places == sorted(places)
    assert f"{rows()[0].scores.accuracy:.4f}" in text
    assert "n = 40 samples" in text
    assert "216k" in text and "51.1M" in text and "123" in text and "4.6" in text


def test_different_numbers_of_samples_get_a_column() -> None:
    other = ResultRow("elsewhere", "member", score(predictions(17)))
    text = as_text(results_table([*rows(), other]))
    assert "n = " not in text
    assert " 17 " in text and " 40 " in text


def test_without_a_choice_there_is_no_mark() -> None:
    assert "*" not in as_text(results_table(rows()[1:]))


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 200, "efficientnet_b0.ra_in1k"])
def test_tables_fit_80_columns_and_lose_nothing(name: str) -> None:
    text = as_text(results_table(rows(name), title=name))
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"{value:.4f}" in text for value in {row.scores.accuracy for row in rows()})
    assert "…" not in text
    folded = "".join(line[:26].strip() for line in text.splitlines())
    assert printable(name)[:60] in folded


def test_names_from_outside_are_shown_not_obeyed() -> None:
    for table in (
        classes_table(predictions()),
        pairs_table(predictions(), most=40),
        results_table(rows("[red]x[/red]")),
    ):
        text = as_text(table)
        assert "[red]x[/red]" in text
        assert "\x1b" not in text and "\u202e" not in text and "\t" not in text
        text.encode("utf-8")
    assert "\\x1b[31mred" in as_text(classes_table(predictions()))


def test_printable_names_stay_as_they_are() -> None:
    assert printable("Grüße [x] 猫 🐈") == "Grüße [x] 猫 🐈"
    assert printable("a\x1b[0m\n\udcff") == "a\\x1b[0m\\n\\udcff"


def test_a_class_without_a_sample_has_no_recall() -> None:
    table = classes_table(Predictions.of([[0.9, 0.1, 0.0]] * 2, classes=["cat", "dog", "owl"], labels=[0, 0]))
    cat, dog = (next(line for line in as_text(table).splitlines() if name in line).split() for name in ("cat", "dog"))
    assert cat == ["cat", "2", "1.000", "1.000", "1.000"]
    assert dog == ["dog", "0", "0.000", "-", "0.000"]


def test_pairs_show_count_and_share() -> None:
    truth, said = [0, 0, 0, 0], [0, 1, 1, 1]
    table = pairs_table(Predictions.of(np.eye(2)[said], classes=["cat", "dog"], labels=truth))
    assert "cat dog" in " ".join(as_text(table).split())
    assert "3 75.0 %" in as_text(table)


def test_rows_are_plain_values() -> None:
    document = json.loads(json.dumps([row.to_dict() for row in rows()], allow_nan=False))
    assert document[0]["name"] == "average" and document[0]["chosen"] is True
    assert document[1]["parameters"] == 216_426 and document[1]["macro_f1"] == rows()[1].scores.macro_f1


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (216_426, "216k"), (697_130, "697k"), (999_949, "1.0M"),
     (1_642_596, "1.6M"), (51_123_258, "51.1M"), (143_730_386, "144M"), (999_600_000, "1.0G"), (7_000_000_000, "7.0G")],
)  # fmt: skip
def test_counts_are_short(count: int, text: str) -> None:
    assert short_count(count) == text
    assert len(text) <= 5


def test_a_comparison_is_one_sentence_that_says_whether_it_is_chance() -> None:
    good = Predictions.of(np.eye(2)[[0] * 30], labels=[0] * 30)
    bad = Predictions.of(np.eye(2)[[0] * 10 + [1] * 20], labels=[0] * 30)
    text = comparison_text(compare(good, bad), "[b]good", "bad\n")
    assert "+66.67 points" in text and "only [b]good right 20" in text and ": more than chance" in text
    assert "\n" not in text
    assert "no more than chance" in comparison_text(compare(good, good), "good", "good")


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("tercet.ensemble.cross_fit, tercet.metrics.tables", ("torch", "timm", "lightning", "matplotlib")),
        ("tercet.core.prediction_files", ("torch", "sklearn", "scipy", "rich", "matplotlib")),
    ],
)
def test_scoring_files_needs_no_network_library(modules: str, absent: tuple[str, ...]) -> None:
    program = f"import sys, {modules}; sys.exit(', '.join(sorted(set({absent!r}) & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
