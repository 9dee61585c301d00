import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.drawings import drawing, poorer, table_of

from tercet.audit import pairs as linked
from tercet.audit.audit import check_table
from tercet.audit.duplicates import near_pairs
from tercet.audit.inspect import inspect, orient
from tercet.audit.label_issues import check_labels
from tercet.audit.result import AuditResult
from tercet.config.analysis import FINDING_KINDS, AuditConfig
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError
from tercet.core.predictions import Predictions
from tercet.data.load import load_table
from tercet.data.table import SampleTable

NO_HOLD_OUT = DataConfig(val_fraction=0, test_fraction=0)


def audited(table: SampleTable, config: DataConfig = NO_HOLD_OUT, **options: object) -> AuditResult:
    chosen = AuditConfig(**{"folds": 2, **options})  # type: ignore[arg-type]
    seen = inspect(table, max_pixels=config.max_pixels, hashed=chosen.max_hash_distance is not None)
    return check_table(table, seen, config, chosen)


def kinds(found: AuditResult) -> set[str]:
    return {finding.kind for finding in found.findings}


def turned(picture: Image.Image, way: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(orient(np.asarray(picture), way)))


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Two classes in train and test, with one equal and one poorer copy across the splits, saved as other files."""
    for place, (split, label) in enumerate((split, label) for split in ("train", "test") for label in ("cat", "dog")):
        folder = tmp_path / "pets" / split / label
        folder.mkdir(parents=True)
        for number in range(6):
            drawing(100 * place + number).save(folder / f"{number}.png")
    drawing(2).save(tmp_path / "pets" / "test" / "cat" / "equal.bmp")
    poorer(drawing(103)).save(tmp_path / "pets" / "test" / "dog" / "poorer.png")
    return tmp_path / "pets"


def test_planted_copies_across_splits_are_named(planted: Path) -> None:
    found = audited(load_table(planted, NO_HOLD_OUT))
    equal, near = found.copies
    assert (equal.how, set(equal.ids)) == ("pixels", {"train/cat/2.png", "test/cat/equal.bmp"})
    assert (near.how, set(near.ids)) == ("hash", {"train/dog/3.png", "test/dog/poorer.png"})
    assert equal.crosses and near.crosses and not equal.disagrees
    assert near.similarity > 0.97 and near.distance is not None and near.distance <= 6
    assert [(leak.split, leak.other, leak.images) for leak in found.leaks] == [("test", "train", 2)]
    assert kinds(found) == {"duplicates", "leakage"}
    assert found.finding("leakage").text == (
        "2 images of test have a copy in train: test/cat/equal.bmp = train/cat/2.png, "
        "test/dog/poorer.png = train/dog/3.png (in the given splits)"
    )


def test_the_document_is_json(planted: Path) -> None:
    document = json.loads(json.dumps(audited(load_table(planted, NO_HOLD_OUT)).to_dict(), allow_nan=False))
    assert document["num_copies"] == {"pixels": 1, "hash": 1, "network": 0}
    assert [finding["kind"] for finding in document["findings"]] == ["duplicates", "leakage"]
    assert document["copies"][0]["crosses_splits"] and document["split_sizes"] == {"train": 12, "test": 14}


@pytest.mark.parametrize("way", range(1, 8))
def test_a_turned_copy_is_found_and_how_it_lies(way: int) -> None:
    square = [drawing(seed, (60, 60)) for seed in range(6)]
    found = audited(table_of(*square, turned(square[3], way)))
    (copy,) = found.copies
    assert copy.ids == ("d", "g") and copy.how == "hash" and copy.orientation != "as it is"


def test_clean_data_has_no_finding() -> None:
    found = audited(table_of(*map(drawing, range(20))), DataConfig())
    assert found.findings == () and found.copies == () and found.refusals == ()
    assert all(not found.finding(kind).count for kind in FINDING_KINDS)


def test_near_duplicates_can_be_left_out() -> None:
    table = table_of(drawing(0), drawing(1), turned(drawing(0), 1), drawing(1))
    assert [copy.how for copy in audited(table, max_hash_distance=None).copies] == ["pixels"]


def test_grey_saved_as_colour_is_the_same_picture(tmp_path: Path) -> None:
    for name, picture in (
        ("cat/a.png", drawing(0).convert("L")),
        ("dog/b.png", drawing(0).convert("L").convert("RGB")),
    ):
        (tmp_path / name).parent.mkdir()
        picture.save(tmp_path / name)
    found = audited(load_table(tmp_path, NO_HOLD_OUT))
    (copy,) = found.copies
    assert copy.how == "pixels" and copy.disagrees and "labels" in kinds(found)
    assert dict(found.modes) == {"PNG L": 1, "PNG RGB": 1} and found.sizes == ((60, 72, 2),)


def test_equal_pixels_of_another_shape_are_another_picture() -> None:
    pixels = np.asarray(drawing(0, (60, 60)))
    table = table_of(Image.fromarray(pixels), Image.fromarray(pixels[::-1].copy()))
    assert [copy.how for copy in audited(table).copies] == ["hash"]


def test_pictures_of_one_colour_are_named_and_no_near_duplicates() -> None:
    flat = [Image.new("RGB", (72, 60), (value, value, value)) for value in (10, 12)]
    found = audited(table_of(drawing(0), *flat, drawing(1)))
    assert found.flat == ("b", "c") and found.copies == ()


def test_unreadable_files_are_told_and_not_counted(tmp_path: Path) -> None:
    for place, label in enumerate(("cat", "dog")):
        (tmp_path / label).mkdir()
        for number in range(5):
            drawing(10 * place + number).save(tmp_path / label / f"{number}.png")
    (tmp_path / "cat" / "broken.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:200])
    (tmp_path / "dog" / "text.jpg").write_text("no image")
    found = audited(load_table(tmp_path, NO_HOLD_OUT))
    assert {image.id for image in found.unreadable} == {"cat/broken.png", "dog/text.jpg"}
    assert (found.images, found.readable, dict(found.counts)) == (12, 10, {"cat": 5, "dog": 5})
    assert kinds(found) == {"unreadable"} and "cat/broken.png" in found.finding("unreadable").text


def test_files_that_a_table_names_in_vain_are_unreadable_too(tmp_path: Path) -> None:
    for number in range(6):
        drawing(number).save(tmp_path / f"{number}.png")
    rows = [f"{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(8)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    found = audited(load_table(tmp_path / "labels.csv", replace(NO_HOLD_OUT, max_bad_fraction=1)))
    assert found.missing == ("6.png (line 8)", "7.png (line 9)")
    assert found.finding("unreadable").count == 2


def test_splits_are_those_that_a_training_would_make() -> None:
    copies = [drawing(seed) for seed in range(20)] + [turned(drawing(seed), 4) for seed in range(20)]
    found = audited(table_of(*copies), DataConfig())
    assert "as tercet train would divide them" in found.division
    assert found.split_sizes["test"] and {leak.split for leak in found.leaks} <= {"val", "test"}
    crossing = {frozenset(copy.ids) for copy in found.copies if copy.crosses}
    assert 0 < len(crossing) < 20
    whole = audited(replace(table_of(*copies), groups=tuple(str(row % 20) for row in range(40))), DataConfig())
    assert not whole.leaks and "leakage" not in kinds(whole)


def test_a_given_test_split_is_kept_and_validation_held_out() -> None:
    table = table_of(*map(drawing, range(30)), splits=["train"] * 24 + ["test"] * 6)
    found = audited(table, DataConfig())
    assert found.division == "in the given splits; val as tercet train would hold it out"
    assert found.split_sizes["test"] == 6 and found.split_sizes["val"]


def test_a_near_copy_of_an_equal_one_leaks_too() -> None:
    picture = drawing(0)
    pictures = [picture, turned(picture, 1), *map(drawing, range(1, 9)), picture]
    splits = ["train", "train", *["train", "test"] * 4, "test"]  # the equal one lies in test, the near one in train
    found = audited(table_of(*pictures, splits=splits))
    assert [(leak.split, leak.other, leak.images) for leak in found.leaks] == [("test", "train", 1)]
    assert all(copy.crosses for copy in found.copies) and len(found.copies) == 2


def test_groups_in_two_given_splits_are_named_and_refused() -> None:
    groups = ["p1", "p1", *map(str, range(6))]
    table = table_of(*map(drawing, range(8)), splits=["train", "test"] * 4, groups=groups, labels=[0, 0, 1, 1] * 2)
    found = audited(table)
    assert dict(found.torn) == {"p1": ("train", "test")}
    assert kinds(found) == {"leakage"}
    assert found.finding("leakage").text == "1 groups lie in several splits: p1 (train, test) (in the given splits)"
    (refusal,) = found.refusals
    assert "1 groups lie in both train and test, such as 'p1'" in refusal


def test_the_refusal_counts_the_groups_that_the_finding_counts() -> None:
    groups = [f"p{row // 4}" for row in range(24)]  # each of six in train and test; held out, one would be in val
    table = table_of(*map(drawing, range(24)), splits=["train", "train", "test", "test"] * 6, groups=groups)
    found = audited(table, DataConfig())
    assert len(found.torn) == 6 and "6 groups lie in both train and test" in found.refusals[0]


def test_groups_of_rows_that_are_left_out_are_not_torn() -> None:
    table = table_of(*map(drawing, range(8)), splits=["train", "test"] * 4, groups=["p1", "p1", *map(str, range(6))])
    labels = np.array([-1, 0, 1, 1, 0, 0, 1, 1])
    found = audited(replace(table, labels=labels))
    assert not found.torn and not any("groups" in refusal for refusal in found.refusals)


def test_every_reason_to_refuse_is_told(tmp_path: Path) -> None:
    for number in range(6):
        drawing(number).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    rows = [f"{name}.png,cat" for name in (*range(6), "bad", "gone")]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    wide = replace(NO_HOLD_OUT, max_bad_fraction=1)
    table = load_table(tmp_path / "labels.csv", wide, min_classes=1)
    missing, classes, bad, rest = audited(table).refusals
    assert "1 of 8 rows name no image" in missing and "has one class ('cat')" in classes
    assert "1 of 7 images cannot be read, more than data.max_bad_fraction 0.01 allows" in bad
    assert "no images are left for validation" in rest


def test_look_alikes_in_one_split_hide_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    pixels = np.asarray(drawing(0)).astype(int)
    alike = [
        Image.fromarray((pixels + generator.integers(-1, 2, pixels.shape)).clip(0, 255).astype(np.uint8))
        for _ in range(40)
    ]
    pictures = [*alike, drawing(1), poorer(drawing(1)).resize((72, 60))]
    monkeypatch.setattr("tercet.audit.copies.near_pairs", partial(near_pairs, most=20))
    found = audited(table_of(*pictures, splits=["train"] * 41 + ["test"], labels=[0, 1] * 21))
    assert [(leak.split, leak.other, leak.images) for leak in found.leaks] == [("test", "train", 1)]
    assert found.copies[0].crosses and len(found.copies) < 100 and not found.complete and found.leaks_complete
    assert "or more near-duplicate pairs: o1 = p1, " in found.finding("duplicates").text


def test_a_search_that_stopped_is_told_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [poorer(drawing(seed // 2)).resize((72, 60)) if seed % 2 else drawing(seed // 2) for seed in range(8)]
    table = table_of(*pictures, splits=["train", "test"] * 4, labels=[0, 0, 1, 1] * 2)
    monkeypatch.setattr(linked, "MOST_COMPARED", 0)
    found = audited(table)
    assert not found.leaks_complete and not found.complete and found.to_dict()["leaks_complete"] is False
    leakage = found.finding("leakage")
    assert leakage.count == 1 and "the search stopped" in leakage.text


def test_crossing_copies_are_listed_first_and_named_by_split() -> None:
    same = drawing(0)
    pictures = [drawing(1), drawing(1), same, same, same, drawing(2), drawing(3), drawing(4)]
    splits = ["train", "train", "test", "test", "train", "train", "test", "train"]
    found = audited(table_of(*pictures, splits=splits, labels=[0, 0, 0, 1, 1, 1, 1, 0]))
    assert [copy.ids for copy in found.copies] == [("c", "d", "e"), ("a", "b")]
    assert found.to_dict()["copies"][0]["crosses_splits"]
    assert found.copies[0].equation() == "c = e" and found.copies[0].apart() == (0, 2, 1)
    assert "2 images of test have a copy in train: c = e (" in found.finding("leakage").text
    assert found.finding("labels").text == "1 pictures have several labels: c = d"


def test_small_missing_and_imbalanced_classes() -> None:
    labels, splits = [0] * 12 + [1] * 4, ["train"] * 11 + ["test"] + ["train"] * 4
    table = table_of(*map(drawing, range(16)), labels=labels, splits=splits, classes=("cat", "dog", "eel"))
    found = audited(replace(table, empty=("train/eel",)), folds=5, imbalance=2.5)
    assert dict(found.small) == {"dog": 4, "eel": 0} and found.units == "images"
    assert dict(found.absent) == {"train": ("eel",), "test": ("dog", "eel")}
    assert "3.0 times" in found.finding("imbalance").text
    assert kinds(found) == {"small-classes", "missing-classes", "imbalance"}
    assert found.finding("missing-classes").count == 4
    assert audited(table, imbalance=3).finding("imbalance").count == 0


def test_small_classes_are_counted_in_groups_where_there_are_groups() -> None:
    groups = [f"p{row // 4}" for row in range(16)]
    table = table_of(*map(drawing, range(16)), labels=[0] * 12 + [1] * 4, groups=groups)
    found = audited(table)
    assert (dict(found.small), found.units) == ({"dog": 1}, "groups")


def test_sets_of_labels_are_counted_by_label() -> None:
    membership = np.zeros((12, 2), dtype=np.bool_)
    membership[:, 0], membership[:3, 1] = True, True
    table = replace(table_of(*map(drawing, range(12)), labels=[0] * 12), membership=membership)
    assert dict(audited(table).counts) == {"cat": 12, "dog": 3}


def test_what_the_network_adds_is_not_told_twice() -> None:
    pictures = [drawing(0), drawing(1), drawing(0), turned(drawing(1), 2), drawing(4), drawing(5)]
    table = table_of(*pictures, labels=[0] * 6)
    seen = inspect(table, max_pixels=10**6)
    features = np.repeat(np.eye(6)[[0, 1, 0, 1, 4, 4]][:, None], 8, axis=1)  # equal, near, and new
    found = check_table(table, seen, NO_HOLD_OUT, AuditConfig(folds=2), features=features)
    assert [(copy.how, copy.ids) for copy in found.copies] == [
        ("pixels", ("a", "c")),
        ("hash", ("b", "d")),
        ("network", ("e", "f")),
    ]


# ------------------------------------------------------------------------------------------ labels


def said_of(table: SampleTable, sure: float = 0.97) -> Predictions:
    """Predictions that believe the labels, in another order of rows and classes."""
    probabilities = np.full((len(table), 2), 1 - sure)
    probabilities[np.arange(len(table)), 1 - table.labels] = sure  # columns dog, cat
    order = np.arange(len(table))[::-1]
    ids = tuple(table.ids[row] for row in order)
    return Predictions(ids, ("dog", "cat"), probabilities[order], 1 - table.labels[order])


def test_a_swapped_label_is_suspicious() -> None:
    table = table_of(*map(drawing, range(40)))
    said = said_of(table)
    labels = table.labels.copy()
    labels[7] = 1 - labels[7]
    check = check_labels(replace(table, labels=labels), said, run="runs/a", predictions="all")
    (issue,) = check.issues
    assert (issue.id, issue.label, issue.suggested) == (table.ids[7], "cat", "dog")
    assert (issue.own_probability, issue.suggested_probability, check.checked) == (0.03, 0.97, 40)
    found = replace(audited(table), labels=check)
    assert found.finding("labels").text == f"1 labels are suspicious: {table.ids[7]} (cat, rather dog)"


def test_right_labels_are_not_suspicious() -> None:
    table = table_of(*map(drawing, range(40)))
    assert check_labels(table, said_of(table), run="r", predictions="all").issues == ()


def test_labels_of_one_class_cannot_be_judged() -> None:
    table = table_of(*map(drawing, range(6)), labels=[0] * 6)
    assert check_labels(table, said_of(table), run="r", predictions="all").issues == ()


def test_predictions_of_other_data_are_refused() -> None:
    table = table_of(*map(drawing, range(6)))
    said = said_of(table)
    with pytest.raises(DataError, match="other classes than drawn has, such as 'dog'"):
        check_labels(replace(table, classes=("cat", "eel")), said, run="r", predictions="all")
    with pytest.raises(DataError, match="predicted no labelled image of drawn"):
        check_labels(replace(table, ids=tuple("uvwxyz")), said, run="r", predictions="all")
    with pytest.raises(ConfigError, match="label sets"):
        sets = replace(table, membership=np.zeros((6, 2), dtype=np.bool_))
        check_labels(sets, said, run="r", predictions="all")


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
def test_options_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AuditConfig(**options)  # type: ignore[arg-type]
