import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.fixtures.bundles import CLASSES, COMBINERS, KINDS, make_bundle, make_member

from tercet.core.errors import DataError, ModelError, StorageError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.manifest import read_manifest
from tercet.models.fusion_head import FusionHead


def pictures(count: int = 5, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        generator.integers(0, 256, (int(height), int(width), 3), dtype=np.uint8)
        for height, width in generator.integers(7, 40, (count, 2))
    ]


@pytest.mark.parametrize("kind", ["single", "weighted", "e2e", "equation-19", "fold-mean"])
def test_a_loaded_bundle_equals_the_saved_one(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    bundle = bundles[kind]
    loaded = load_bundle(bundle.save(tmp_path / "bundle"))
    assert loaded.classes == CLASSES
    assert [member.name for member in loaded.members] == [member.name for member in bundle.members]
    assert loaded.specs == bundle.specs
    assert loaded.parameters == bundle.parameters
    assert loaded.card == bundle.card
    images = pictures()
    assert np.array_equal(loaded.predict(images).probabilities, bundle.predict(images).probabilities)
    for copy, member in zip(loaded.members, bundle.members, strict=True):
        weights = member.classifier.state_dict()
        assert all(torch.equal(value, weights[key]) for key, value in copy.classifier.state_dict().items())


@pytest.mark.parametrize("kind", ["single", "weighted", "e2e", "fold-mean"])
def test_saving_a_loaded_bundle_gives_the_same_files(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    first = bundles[kind].save(tmp_path / "first")
    second = load_bundle(first).save(tmp_path / "second")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()
    }


def test_fitted_combiners_are_saved(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    for kind, combiner in COMBINERS.items():
        assert load_bundle(bundles[kind].save(tmp_path / kind)).combiner == combiner
    head = load_bundle(bundles["e2e"].save(tmp_path / "e2e")).combiner
    assert isinstance(head, FusionHead)
    assert head.options() == {"width": 16, "slope": 0.3, "dropout": 0.5}
    assert not head.training


def test_combiners_give_different_predictions(bundles: dict[str, Bundle]) -> None:
    images = pictures()
    members = bundles["average"].predict_members(images)
    results = {kind: bundles[kind].predict(images).probabilities for kind in KINDS if kind != "single"}
    assert np.allclose(results["average"], np.mean([member.probabilities for member in members], axis=0))
    greedy = (members[0].probabilities + members[2].probabilities) / 2
    assert np.allclose(results["greedy"], greedy)
    for first, second in itertools.combinations(results, 2):
        assert not np.allclose(results[first], results[second]), (first, second)


def test_each_member_gets_its_own_input_size(bundles: dict[str, Bundle]) -> None:
    specs = bundles["average"].specs
    assert [(spec.size, spec.channels) for spec in specs] == [((12, 12), 1), ((20, 16), 3), ((64, 64), 3)]
    images = pictures()
    for predictions, member in zip(bundles["average"].predict_members(images), bundles["average"].members, strict=True):
        alone = Bundle(CLASSES, (member,)).predict(images)
        assert np.allclose(alone.probabilities, predictions.probabilities, atol=1e-6)


def test_the_name_is_that_of_the_member_or_the_combiner(bundles: dict[str, Bundle]) -> None:
    assert bundles["single"].name == "rows"
    assert {kind: bundles[kind].name for kind in ("vote", "e2e")} == {"vote": "vote", "e2e": "e2e"}


def test_several_members_need_a_combiner() -> None:
    with pytest.raises(ModelError, match="combiner"):
        Bundle(CLASSES, (make_member("rows"), make_member("colours")))


def test_predicting_does_not_change_the_networks(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["e2e"]
    before = {key: value.clone() for key, value in bundle.members[2].classifier.state_dict().items()}
    bundle.predict(pictures())
    after = bundle.members[2].classifier.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(part.training for member in bundle.members for part in member.classifier.modules())


def test_members_in_training_mode_are_switched_to_eval_mode() -> None:
    member = make_member("backbone")
    member.classifier.train()
    bundle = Bundle(CLASSES, (member,))
    assert np.array_equal(bundle.predict(pictures()).probabilities, bundle.predict(pictures()).probabilities)


# ------------------------------------------------------------------------------------------ the folder


def test_the_folder_has_a_manifest_and_safetensors_only(saved: Path) -> None:
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
    assert str(saved) not in (saved / "manifest.json").read_text("utf-8")  # no local paths


def test_file_permissions_follow_the_umask(saved: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert saved.stat().st_mode & 0o777 == 0o777 & ~umask
    assert all(path.stat().st_mode & 0o777 == 0o666 & ~umask for path in saved.iterdir())


def test_a_bundle_can_be_moved(bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = bundles["weighted"].save(tmp_path / "made here" / "bundle")
    moved = tmp_path / "used" / "näch there"
    moved.parent.mkdir()
    shutil.move(original, moved)
    image = tmp_path / "image.png"
    Image.fromarray(pictures(1)[0]).save(image)
    monkeypatch.chdir(moved.parent)
    result = load_bundle(moved.name).predict(image)
    assert (result.ids, result.classes) == ((str(image),), CLASSES)
    assert np.allclose(result.probabilities, bundles["weighted"].predict(image).probabilities, atol=1e-5)


def test_load_bundle_accepts_a_run_folder(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "run" / "bundle")
    assert load_bundle(str(tmp_path / "run")).classes == CLASSES


def test_saving_does_not_replace_other_folders(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1.txt").write_text("precious")
    with pytest.raises(StorageError, match="not a bundle"):
        bundles["single"].save(tmp_path / "thesis")
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter-1.txt"]


@pytest.mark.parametrize("manifest", ['{"manifest_version": 3, "name": "a browser extension"}', "{"])
def test_saving_does_not_replace_folders_with_another_manifest(
    bundles: dict[str, Bundle], tmp_path: Path, manifest: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "background.js").write_text("precious")
    with pytest.raises(StorageError, match="not a bundle"):
        bundles["single"].save(tmp_path)
    assert (tmp_path / "background.js").read_text() == "precious"


def test_saving_does_not_replace_files(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("precious")
    for path in (tmp_path / "notes", tmp_path / "notes" / "bundle"):
        with pytest.raises(StorageError, match="notes"):
            bundles["single"].save(path)
    assert (tmp_path / "notes").read_text() == "precious"


def test_saving_into_an_empty_folder(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert load_bundle(str(bundles["single"].save(str(tmp_path / "empty")))).name == "rows"


def test_an_existing_bundle_is_replaced_completely(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    bundles["e2e"].save(path)
    bundles["single"].save(path)
    assert {path.name for path in path.iterdir()} == {"manifest.json", "1-rows.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]  # no temporary files


def test_a_failed_save_keeps_the_existing_bundle(
    bundles: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundles["single"].save(tmp_path / "bundle")
    before = {path.name: path.read_bytes() for path in path.iterdir()}

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tercet.ensemble.bundle.write_manifest", disk_full)
    with pytest.raises(StorageError, match="No space left"):
        bundles["e2e"].save(path)
    assert {path.name: path.read_bytes() for path in path.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_loaded_bundle_can_be_saved_over_itself(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    path = bundles["average"].save(tmp_path / "bundle")
    loaded = load_bundle(path)
    loaded.save(path)  # the files may be mapped into memory: replacing them must not change the weights
    assert np.array_equal(
        loaded.predict(pictures()).probabilities, bundles["average"].predict(pictures()).probabilities
    )


def test_members_whose_file_names_collide_keep_their_weights(tmp_path: Path) -> None:
    first, second = make_member("rows"), make_member("colours")
    members = (replace(first, name="a b"), replace(second, name="a/b"))
    bundle = Bundle(CLASSES, members, type(COMBINERS["average"])("average", ("a b", "a/b")))
    loaded = load_bundle(bundle.save(tmp_path / "bundle"))
    assert [member.name for member in loaded.members] == ["a b", "a/b"]
    assert np.array_equal(loaded.predict(pictures()).probabilities, bundle.predict(pictures()).probabilities)


def test_combining_needs_the_same_samples(bundles: dict[str, Bundle]) -> None:
    members = bundles["average"].predict_members(pictures())
    for kind in ("average", "e2e"):
        with pytest.raises(DataError, match="same samples"):
            bundles[kind].combine([members[0], members[1].take([0, 1]), members[2]])


def test_data_metrics_and_versions_are_saved(tmp_path: Path) -> None:
    base = make_bundle("single")
    card = {"data": {"source": "drawn"}, "metrics": {"test": {"accuracy": 0.5}}, "versions": {"torch": "2"}}
    path = Bundle(base.classes, base.members, None, card).save(tmp_path / "bundle")
    assert load_bundle(path).card == card
    assert read_manifest(path)["metrics"] == card["metrics"]
