import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.drawings import drawing, poorer, table_of

from tercet.audit.checks import check_table
from tercet.audit.inspect import inspect
from tercet.audit.label_issues import check_labels
from tercet.audit.result import AuditResult
from tercet.config.commands import FINDING_KINDS, AuditConfig
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.data import duplicate_pairs as pairs_module
from tercet.data.duplicates import near_pairs
from tercet.data.load import load_table
from tercet.data.perceptual_hashes import orient
from tercet.data.table import SampleTable

NO_HOLD_OUT = DataConfig(val_fraction=0, test_fraction=0)


def audited(table: SampleTable, config: DataConfig = NO_HOLD_OUT, **options: object) -> AuditResult:
    thresholds = AuditConfig(**{"folds": 2, **options})  # type: ignore[arg-type]
    inspection = inspect(table, max_pixels=config.max_pixels, compute_hashes=thresholds.max_hash_distance is not None)
    return check_table(table, inspection, config, thresholds)


def kinds(result: AuditResult) -> set[str]:
    return {finding.kind for finding in result.findings}


def transformed(picture: Image.Image, way: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(orient(np.asarray(picture), way)))


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Two classes in train and test, with one identical and one degraded duplicate across the splits."""
    for index, (split, label) in enumerate((split, label) for split in ("train", "test") for label in ("cat", "dog")):
        folder = tmp_path / "pets" / split / label
        folder.mkdir(parents=True)
        for number in range(6):
            drawing(100 * index + number).save(folder / f"{number}.png")
    drawing(2).save(tmp_path / "pets" / "test" / "cat" / "equal.bmp")
    poorer(drawing(103)).save(tmp_path / "pets" / "test" / "dog" / "poorer.png")
    return tmp_path / "pets"


def test_duplicates_across_splits_are_reported(planted: Path) -> None:
    result = audited(load_table(planted, NO_HOLD_OUT))
    exact, near = result.duplicates
    assert (exact.method, set(exact.ids)) == ("pixels", {"train/cat/2.png", "test/cat/equal.bmp"})
    assert (near.method, set(near.ids)) == ("hash", {"train/dog/3.png", "test/dog/poorer.png"})
    assert exact.crosses and near.crosses and not exact.disagrees
    assert near.similarity > 0.97 and near.distance is not None and near.distance <= 6
    assert [(leak.split, leak.other, leak.images) for leak in result.leaks] == [("test", "train", 2)]
    assert kinds(result) == {"duplicates", "leakage"}
    assert result.finding("leakage").text == (
        "test images with a duplicate in train: 2 (test/cat/equal.bmp = train/cat/2.png, "
        "test/dog/poorer.png = train/dog/3.png); splits: in the given splits"
    )


def test_result_is_json(planted: Path) -> None:
    document = json.loads(json.dumps(audited(load_table(planted, NO_HOLD_OUT)).to_dict(), allow_nan=False))
    assert document["num_duplicates"] == {"pixels": 1, "hash": 1, "network": 0}
    assert [finding["kind"] for finding in document["findings"]] == ["duplicates", "leakage"]
    assert document["duplicates"][0]["crosses_splits"] and document["split_sizes"] == {"train": 12, "test": 14}


@pytest.mark.parametrize("way", range(1, 8))
def test_rotated_duplicate_has_an_orientation(way: int) -> None:
    square = [drawing(seed, (60, 60)) for seed in range(6)]
    result = audited(table_of(*square, transformed(square[3], way)))
    (duplicate,) = result.duplicates
    assert duplicate.ids == ("d", "g") and duplicate.method == "hash" and duplicate.orientation != "identity"


def test_clean_data_has_no_findings() -> None:
    result = audited(table_of(*map(drawing, range(20))), DataConfig())
    assert result.findings == () and result.duplicates == () and result.training_errors == ()
    assert all(not result.finding(kind).count for kind in FINDING_KINDS)


def test_near_duplicates_can_be_disabled() -> None:
    table = table_of(drawing(0), drawing(1), transformed(drawing(0), 1), drawing(1))
    assert [duplicate.method for duplicate in audited(table, max_hash_distance=None).duplicates] == ["pixels"]


def test_grey_image_stored_as_rgb_is_identical(tmp_path: Path) -> None:
    for name, picture in (
        ("cat/a.png", drawing(0).convert("L")),
        ("dog/b.png", drawing(0).convert("L").convert("RGB")),
    ):
        (tmp_path / name).parent.mkdir()
        picture.save(tmp_path / name)
    result = audited(load_table(tmp_path, NO_HOLD_OUT))
    (duplicate,) = result.duplicates
    assert duplicate.method == "pixels" and duplicate.disagrees and "labels" in kinds(result)
    assert dict(result.modes) == {"PNG L": 1, "PNG RGB": 1} and result.sizes == ((60, 72, 2),)


def test_flipped_image_is_not_identical() -> None:
    pixels = np.asarray(drawing(0, (60, 60)))
    table = table_of(Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy()))
    assert [duplicate.method for duplicate in audited(table).duplicates] == ["hash"]


def test_uniform_images_are_listed_and_not_near_duplicates() -> None:
    flat = [Image.new("RGB", (72, 60), (value, value, value)) for value in (10, 12)]
    result = audited(table_of(drawing(0), *flat, drawing(1)))
    assert result.uniform == ("b", "c") and result.duplicates == ()


def test_unreadable_files_are_reported_and_not_counted(tmp_path: Path) -> None:
    for index, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        for number in range(5):
            drawing(10 * index + number).save(tmp_path / label / f"{number}.png")
    (tmp_path / "cat" / "broken.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:200])
    (tmp_path / "dog" / "text.jpg").write_text("no image")
    result = audited(load_table(tmp_path, NO_HOLD_OUT))
    assert {image.id for image in result.unreadable} == {"cat/broken.png", "dog/text.jpg"}
    assert (result.images, result.readable, dict(result.counts)) == (12, 10, {"cat": 5, "dog": 5})
    assert kinds(result) == {"unreadable"} and "cat/broken.png" in result.finding("unreadable").text


def test_missing_files_of_a_table_are_unreadable(tmp_path: Path) -> None:
    for number in range(6):
        drawing(number).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    result = audited(load_table(tmp_path / "labels.csv", replace(NO_HOLD_OUT, max_bad_fraction=1)))
    assert result.missing_files == ("6.png (line 8)", "7.png (line 9)")
    assert result.finding("unreadable").count == 2


def test_splits_equal_those_of_training() -> None:
    copies = [drawing(seed) for seed in range(20)] + [transformed(drawing(seed), 4) for seed in range(20)]
    result = audited(table_of(*copies), DataConfig())
    assert "as tercet train would split them" in result.split_source
    assert result.split_sizes["test"] and {leak.split for leak in result.leaks} <= {"val", "test"}
    crossing = {frozenset(duplicate.ids) for duplicate in result.duplicates if duplicate.crosses}
    assert 0 < len(crossing) < 20
    grouped = audited(replace(table_of(*copies), groups=tuple(str(row % 20) for row in range(40))), DataConfig())
    assert not grouped.leaks and "leakage" not in kinds(grouped)


def test_given_test_split_is_kept() -> None:
    table = table_of(*map(drawing, range(30)), splits=["train"] * 24 + ["test"] * 6)
    result = audited(table, DataConfig())
    assert result.split_source == "in the given splits; val as tercet train would hold it out"
    assert result.split_sizes["test"] == 6 and result.split_sizes["val"]


def test_near_duplicate_of_an_identical_image_leaks() -> None:
    picture = drawing(0)
    pictures = [picture, transformed(picture, 1), *map(drawing, range(1, 9)), picture]
    splits = ["train", "train", *["train", "test"] * 4, "test"]  # identical image in test, near duplicate in train
    result = audited(table_of(*pictures, splits=splits))
    assert [(leak.split, leak.other, leak.images) for leak in result.leaks] == [("test", "train", 1)]
    assert all(duplicate.crosses for duplicate in result.duplicates) and len(result.duplicates) == 2


def test_groups_in_two_given_splits_are_reported() -> None:
    groups = ["p1", "p1", *map(str, range(6))]
    table = table_of(*map(drawing, range(8)), splits=["train", "test"] * 4, groups=groups, labels=[0, 0, 1, 1] * 2)
    result = audited(table)
    assert dict(result.leaking_groups) == {"p1": ("train", "test")}
    assert kinds(result) == {"leakage"}
    assert "groups in several splits: 1 (p1 in train and test)" in result.finding("leakage").text
    (error,) = result.training_errors
    assert "1 groups are in both train and test, such as 'p1'" in error


def test_training_error_and_finding_count_the_same_groups() -> None:
    groups = [f"p{row // 4}" for row in range(24)]  # six groups in train and test; one would be held out
    table = table_of(*map(drawing, range(24)), splits=["train", "train", "test", "test"] * 6, groups=groups)
    result = audited(table, DataConfig())
    assert len(result.leaking_groups) == 6 and "6 groups are in both train and test" in result.training_errors[0]


def test_left_out_rows_cause_no_leaking_group() -> None:
    table = table_of(*map(drawing, range(8)), splits=["train", "test"] * 4, groups=["p1", "p1", *map(str, range(6))])
    labels = np.array([-1, 0, 1, 1, 0, 0, 1, 1])
    result = audited(replace(table, labels=labels))
    assert not result.leaking_groups and not any("groups" in error for error in result.training_errors)


def test_every_training_error_is_reported(tmp_path: Path) -> None:
    for number in range(6):
        drawing(number).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = [f"{name}.png,cat" for name in (*range(6), "bad", "gone")]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    strict = replace(NO_HOLD_OUT, max_bad_fraction=0)
    table = load_table(tmp_path / "labels.csv", NO_HOLD_OUT, min_classes=1)
    missing, classes, bad, rest = audited(table, strict).training_errors
    assert "1 of 8 listed images do not exist" in missing and "has one class ('cat')" in classes
    assert "1 of 7 images cannot be read, more than data.max_bad_fraction 0 allows" in bad
    assert "no images are left for validation" in rest


def test_many_similar_images_do_not_hide_a_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    pixels = np.asarray(drawing(0)).astype(int)
    similar = [
        Image.fromarray((pixels + generator.integers(-1, 2, pixels.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(40)
    ]
    pictures = [*similar, drawing(1), poorer(drawing(1)).resize((72, 60))]
    monkeypatch.setattr("tercet.audit.checks.near_pairs", partial(near_pairs, max_pairs=20))
    result = audited(table_of(*pictures, splits=["train"] * 41 + ["test"], labels=[0, 1] * 21))
    assert [(leak.split, leak.other, leak.images) for leak in result.leaks] == [("test", "train", 1)]
    assert result.duplicates[0].crosses and len(result.duplicates) < 100
    assert result.leaks_complete and not result.complete
    assert "groups of near duplicates: 2, 42 images (o1 = p1, " in result.finding("duplicates").text


def test_stopped_search_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [poorer(drawing(seed // 2)).resize((72, 60)) if seed % 2 else drawing(seed // 2) for seed in range(8)]
    table = table_of(*pictures, splits=["train", "test"] * 4, labels=[0, 0, 1, 1] * 2)
    monkeypatch.setattr(pairs_module, "MAX_COMPARED", 0)
    result = audited(table)
    assert not result.leaks_complete and not result.complete and result.to_dict()["leaks_complete"] is False
    leakage = result.finding("leakage")
    assert leakage.count == 1 and "the search stopped" in leakage.text


def test_duplicates_across_splits_are_listed_first() -> None:
    same = drawing(0)
    pictures = [drawing(1), drawing(1), same, same, same, drawing(2), drawing(3), drawing(4)]
    splits = ["train", "train", "test", "test", "train", "train", "test", "train"]
    result = audited(table_of(*pictures, splits=splits, labels=[0, 0, 0, 1, 1, 1, 1, 0]))
    assert [duplicate.ids for duplicate in result.duplicates] == [("c", "d", "e"), ("a", "b")]
    assert result.to_dict()["duplicates"][0]["crosses_splits"]
    assert result.duplicates[0].equation() == "c = e" and result.duplicates[0].ordered() == (0, 2, 1)
    assert "test images with a duplicate in train: 2 (c = e" in result.finding("leakage").text
    assert result.finding("labels").text == "identical images with different labels: 1 (c = d)"


def test_small_missing_and_imbalanced_classes() -> None:
    labels, splits = [0] * 12 + [1] * 4, ["train"] * 11 + ["test"] + ["train"] * 4
    table = table_of(*map(drawing, range(16)), labels=labels, splits=splits, classes=("cat", "dog", "eel"))
    result = audited(replace(table, empty=("train/eel",)), folds=5, imbalance=2.5)
    assert dict(result.small_classes) == {"dog": 4, "eel": 0} and result.small_unit == "images"
    assert dict(result.missing_classes) == {"train": ("eel",), "test": ("dog", "eel")}
    assert "3.0 times" in result.finding("imbalance").text
    assert kinds(result) == {"small-classes", "missing-classes", "imbalance"}
    assert result.finding("missing-classes").count == 4
    assert audited(table, imbalance=3).finding("imbalance").count == 0


def test_small_classes_are_counted_in_groups() -> None:
    groups = [f"p{row // 4}" for row in range(16)]
    table = table_of(*map(drawing, range(16)), labels=[0] * 12 + [1] * 4, groups=groups)
    result = audited(table)
    assert (dict(result.small_classes), result.small_unit) == ({"dog": 1}, "groups")


def test_multilabel_counts() -> None:
    membership = np.zeros((12, 2), dtype=np.bool_)
    membership[:, 0], membership[:3, 1] = True, True
    table = replace(table_of(*map(drawing, range(12)), labels=[0] * 12), membership=membership)
    assert dict(audited(table).counts) == {"cat": 12, "dog": 3}


def test_network_pairs_do_not_repeat_hash_pairs() -> None:
    pictures = [drawing(0), drawing(1), drawing(0), transformed(drawing(1), 2), drawing(4), drawing(5)]
    table = table_of(*pictures, labels=[0] * 6)
    inspection = inspect(table, max_pixels=10**6)
    features = np.repeat(np.eye(6)[[0, 1, 0, 1, 4, 4]][:, None], 8, axis=1)  # exact, near, and new
    result = check_table(table, inspection, NO_HOLD_OUT, AuditConfig(folds=2), features=features)
    assert [(duplicate.method, duplicate.ids) for duplicate in result.duplicates] == [
        ("pixels", ("a", "c")),
        ("hash", ("b", "d")),
        ("network", ("e", "f")),
    ]


# ------------------------------------------------------------------------------------------ labels


def predictions_of(table: SampleTable, probability: float = 0.97) -> Predictions:
    """Predictions that agree with the labels, in another order of rows and classes."""
    probabilities = np.full((len(table), 2), 1 - probability)
    probabilities[np.arange(len(table)), 1 - table.labels] = probability  # columns dog, cat
    order = np.arange(len(table))[::-1]
    ids = tuple(table.ids[row] for row in order)
    return Predictions(ids, ("dog", "cat"), probabilities[order], 1 - table.labels[order])


def test_swapped_label_is_detected() -> None:
    table = table_of(*map(drawing, range(40)))
    predictions = predictions_of(table)
    labels = table.labels.copy()
    labels[7] = 1 - labels[7]
    check = check_labels(replace(table, labels=labels), predictions, run="runs/a", description="all")
    (issue,) = check.issues
    assert (issue.id, issue.label, issue.suggested) == (table.ids[7], "cat", "dog")
    assert (issue.own_probability, issue.suggested_probability, check.checked) == (0.03, 0.97, 40)
    result = replace(audited(table), labels=check)
    assert result.finding("labels").text == f"likely label errors: 1 ({table.ids[7]}: cat, suggested dog)"


def test_correct_labels_have_no_issues() -> None:
    table = table_of(*map(drawing, range(40)))
    assert check_labels(table, predictions_of(table), run="r", description="all").issues == ()


def test_single_class_has_no_label_issues() -> None:
    table = table_of(*map(drawing, range(6)), labels=[0] * 6)
    assert check_labels(table, predictions_of(table), run="r", description="all").issues == ()


def test_predictions_of_other_data_are_rejected() -> None:
    table = table_of(*map(drawing, range(6)))
    predictions = predictions_of(table)
    with pytest.raises(DataError, match="other classes than drawn has, such as 'dog'"):
        check_labels(replace(table, classes=("cat", "eel")), predictions, run="r", description="all")
    with pytest.raises(DataError, match="no predictions of labelled images of drawn"):
        check_labels(replace(table, ids=tuple("uvwxyz")), predictions, run="r", description="all")
    with pytest.raises(ConfigError, match="multi-label"):
        sets = replace(table, membership=np.zeros((6, 2), dtype=np.bool_))
        check_labels(sets, predictions, run="r", description="all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_hash_distance": 17}, "max_hash_distance 17"),
        ({"folds": 1}, "folds 1"),
        ({"imbalance": 0.5}, "imbalance 0.5"),
        ({"similarity": 0.0}, "similarity 0.0"),
        ({"fail_on": ("leakage", "leakage")}, "fail_on lists leakage twice"),
        ({"feature_network": ("a", "b")}, "one network"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AuditConfig(**options)  # type: ignore[arg-type]
