import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.fixtures.bundles import CLASSES, COMBINERS, KINDS, NAMES, make_bundle, make_member

from tercet.core.errors import DataError, ModelError, StorageError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.member import read_manifest
from tercet.models.fusion_head import FusionHead


def pictures(count: int = 5, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)
        for height, width in generator.integers(7, 40, (count, 2))
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_bundle_is_the_one_that_was_saved(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    bundle = bundles[kind]
    loaded = load_bundle(bundle.save(tmp_path / "bundle"))
    assert loaded.classes == CLASSES
    assert [member.name for member in loaded.members] == [member.name for member in bundle.members]
    assert loaded.specs == bundle.specs
    assert loaded.parameter_count() == bundle.parameter_count()
    assert loaded.card == bundle.card
    images = pictures()
    assert np.array_equal(loaded.predict(images).probabilities, bundle.predict(images).probabilities)
    for one, other in zip(loaded.members, bundle.members, strict=True):
        assert all(
            torch.equal(value, other.classifier.state_dict()[key]) for key, value in one.classifier.state_dict().items()
        )


@pytest.mark.parametrize("kind", KINDS)
def test_saving_what_was_loaded_gives_the_same_files(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    first = bundles[kind].save(tmp_path / "first")
    second = load_bundle(first).save(tmp_path / "second")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_the_combiner_survives_with_all_it_was_fitted_to(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    for kind, combiner in COMBINERS.items():
        assert load_bundle(bundles[kind].save(tmp_path / kind)).combiner == combiner
    head = load_bundle(bundles["e2e"].save(tmp_path / "e2e")).combiner
    assert isinstance(head, FusionHead)
    assert head.options() == {"width": 16, "slope": 0.3, "dropout": 0.5}
    assert not head.training


def test_the_ways_to_combine_differ_and_use_their_members(bundles: dict[str, Bundle]) -> None:
    images = pictures()
    members = bundles["average"].predict_members(images)
    said = {kind: bundles[kind].predict(images).probabilities for kind in KINDS if kind != "single"}
    assert np.allclose(said["average"], np.mean([member.probabilities for member in members], axis=0))
    greedy = (members[0].probabilities + members[2].probabilities) / 2
    assert np.allclose(said["greedy"], greedy)
    for one in said:
        for other in said:
            assert (one == other) == np.allclose(said[one], said[other])


def test_each_member_is_shown_its_own_geometry(bundles: dict[str, Bundle]) -> None:
    specs = bundles["average"].specs
    assert [(spec.size, spec.channels) for spec in specs] == [((12, 12), 1), ((20, 16), 3), ((64, 64), 3)]
    images = pictures()
    for said, member in zip(bundles["average"].predict_members(images), bundles["average"].members, strict=True):
        alone = Bundle(CLASSES, (member,)).predict(images)
        assert np.allclose(alone.probabilities, said.probabilities, atol=1e-6)


def test_the_name_is_the_members_or_the_way_to_combine(bundles: dict[str, Bundle]) -> None:
    assert bundles["single"].name == "rows"
    assert {kind: bundles[kind].name for kind in ("vote", "e2e")} == {"vote": "vote", "e2e": "e2e"}


def test_several_members_need_a_combiner() -> None:
    with pytest.raises(ModelError, match="combiner"):
        Bundle(CLASSES, (make_member("rows"), make_member("colours")))


def test_predicting_leaves_the_networks_as_they_were(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["e2e"]
    before = {key: value.clone() for key, value in bundle.members[2].classifier.state_dict().items()}
    bundle.predict(pictures())
    after = bundle.members[2].classifier.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(part.training for member in bundle.members for part in member.classifier.modules())


def test_a_member_fresh_from_training_mode_predicts_without_noise() -> None:
    member = make_member("backbone")
    member.classifier.train()
    bundle = Bundle(CLASSES, (member,))
    assert np.array_equal(bundle.predict(pictures()).probabilities, bundle.predict(pictures()).probabilities)


# ------------------------------------------------------------------------------------------ the folder


def test_the_folder_holds_a_manifest_and_safetensors_and_nothing_else(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text("utf-8"))
    weights = {path.name for path in saved.iterdir()} - {"manifest.json"}
    assert (
        weights
        == set(manifest["files"])
        == {*(member["weights"] for member in manifest["members"]), "head.safetensors"}
    )
    assert all(name.endswith(".safetensors") and load_file(saved / name) for name in weights)
    assert manifest["classes"] == list(CLASSES)
    assert manifest["combiner"]["method"] == "e2e"
    assert [member["input"]["size"] for member in manifest["members"]] == [[12, 12], [20, 16], [64, 64]]
    assert str(saved) not in (saved / "manifest.json").read_text("utf-8")  # nothing of where it was made


def test_other_people_may_read_it(saved: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~umask
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in saved.iterdir())


def test_a_bundle_predicts_from_any_place_with_nothing_beside_it(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    first = bundles["weighted"].save(tmp_path / "made here" / "bundle")
    moved = tmp_path / "used" / "näch there"
    moved.parent.mkdir()
    shutil.move(first, moved)
    picture = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0]).save(picture)
    script = (
        "import sys, json, tercet\n"
        "said = tercet.load_bundle(sys.argv[1]).predict(sys.argv[2])\n"
        "print(json.dumps([said.ids, said.classes, said.probabilities.tolist()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, moved.name, str(picture)], cwd=moved.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ids, classes, probabilities = json.loads(done.stdout)
    assert (ids, tuple(classes)) == ([str(picture)], CLASSES)
    assert np.allclose(probabilities, bundles["weighted"].predict(picture).probabilities, atol=1e-5)


def test_a_runs_folder_stands_for_its_bundle(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run" / "bundle")
    assert load_bundle(str(tmp_path / "run")).classes == CLASSES


def test_saving_refuses_a_folder_that_is_no_bundle(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("precious")
    with pytest.raises(StorageError, match="not a bundle"):
        bundles["single"].save(tmp_path / "thesis")
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter-1.txt"]


@pytest.mark.parametrize(
    "manifest", ['{"manifest_version": 3, "name": "a browser extension"}', "{", '{"format": "tercet-bundle-1"}']
)
def test_saving_never_replaces_what_only_looks_like_a_bundle(
    bundles: dict[str, Bundle], tmp_path: Path, manifest: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "background.js").write_text("precious")
    with pytest.raises(StorageError, match="not a bundle"):
        bundles["single"].save(tmp_path)
    assert (tmp_path / "background.js").read_text() == "precious"


def test_a_path_may_be_text(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    assert load_bundle(str(bundles["single"].save(str(tmp_path / "bundle")))).name == "rows"


def test_saving_refuses_a_path_that_is_a_file(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    for place in (tmp_path / "notes", tmp_path / "notes" / "bundle"):
        with pytest.raises(StorageError, match="notes"):
            bundles["single"].save(place)
    assert (tmp_path / "notes").read_text() == "precious"


def test_an_empty_folder_is_filled(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert load_bundle(bundles["single"].save(tmp_path / "empty")).name == "rows"


def test_an_older_bundle_is_replaced_as_a_whole(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    bundles["e2e"].save(place)
    bundles["single"].save(place)
    assert {path.name for path in place.iterdir()} == {"manifest.json", "1-rows.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # no debris beside it


def test_a_failed_save_leaves_the_older_bundle(
    bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bundles["single"].save(tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tercet.ensemble.bundle.write_manifest", full)
    with pytest.raises(StorageError, match="No space left"):
        bundles["e2e"].save(place)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_can_be_saved_over_itself_while_loaded(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    place = bundles["average"].save(tmp_path / "bundle")
    loaded = load_bundle(place)
    loaded.save(place)  # safetensors may be mapped into memory: replacing the files must not change the weights
    assert np.array_equal(
        loaded.predict(pictures()).probabilities, bundles["average"].predict(pictures()).probabilities
    )


def test_members_with_the_same_slug_keep_their_own_weights(tmp_path: Path) -> None:
    first, second = make_member("rows"), make_member("colours")
    twins = tuple(type(one)(name, one.classifier, one.config) for one, name in ((first, "a b"), (second, "a/b")))
    bundle = Bundle(CLASSES, twins, type(COMBINERS["average"])("average", ("a b", "a/b")))
    loaded = load_bundle(bundle.save(tmp_path / "bundle"))
    assert [member.name for member in loaded.members] == ["a b", "a/b"]
    assert np.array_equal(loaded.predict(pictures()).probabilities, bundle.predict(pictures()).probabilities)


# ------------------------------------------------------------------------------------------ combining what others said


def test_combining_needs_the_same_samples(bundles: dict[str, Bundle]) -> None:
    members = bundles["average"].predict_members(pictures())
    for kind in ("average", "e2e"):
        with pytest.raises(DataError, match="same samples"):
            bundles[kind].combine([members[0], members[1].take([0, 1]), members[2]])


def test_the_card_tells_what_it_was_made_from(tmp_path: Path) -> None:
    base = make_bundle("single")
    card = {"data": {"source": "drawn"}, "metrics": {"test": {"accuracy": 0.5}}, "versions": {"torch": "2"}}
    place = Bundle(base.classes, base.members, None, card).save(tmp_path / "bundle")
    assert load_bundle(place).card == card
    assert read_manifest(place)["metrics"] == card["metrics"]


def test_names_of_members_are_as_given(saved: Path) -> None:
    assert tuple(member.name for member in load_bundle(saved).members) == NAMES
