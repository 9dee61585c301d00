"""Test-time augmentation in a bundle: applied in prediction and saved in the manifest."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.ensemble.test_bundle import pictures
from tests.fixtures.bundles import CLASSES, make_bundle, make_member

from tercet.config.tta import TTAConfig
from tercet.core.errors import ConfigError, ModelError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.manifest import read_manifest, write_manifest


@pytest.mark.parametrize("kind", ["single", "average", "e2e"])
def test_tta_is_saved_and_applied(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    plain = bundles[kind]
    augmented = plain.with_tta(TTAConfig.parse("crops:2@1.2x+flip", seed=3))
    loaded = load_bundle(augmented.save(tmp_path / "bundle"))
    assert [member.views for member in loaded.members] == [TTAConfig.parse("crops:2@1.2x+flip", seed=3)] * len(
        plain.members
    )
    images = pictures()
    probabilities = loaded.predict(images).probabilities
    assert np.array_equal(probabilities, augmented.predict(images).probabilities)
    assert not np.allclose(probabilities, plain.predict(images).probabilities)
    assert np.array_equal(loaded.with_tta("none").predict(images).probabilities, plain.predict(images).probabilities)
    assert plain.plain and not loaded.plain


def test_flip_gives_mirrored_images_the_same_probabilities(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["e2e"].with_tta("flip")
    images = pictures()
    mirrored = [image[:, ::-1] for image in images]
    first, second = (bundle.predict(batch).probabilities for batch in (images, mirrored))
    assert np.abs(first - second).max() < 1e-4


def test_tta_does_not_depend_on_the_batch_size(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["average"].with_tta("crops:3@1.3x")
    single, batched = (bundle.predict(pictures(), batch_size=size).probabilities for size in (1, 5))
    assert np.abs(single - batched).max() < 1e-5


def test_members_may_have_different_tta(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    plain = bundles["average"]
    changed = replace(plain, members=(plain.members[0], *plain.with_tta("flip").members[1:]))
    loaded = load_bundle(changed.save(tmp_path / "bundle"))
    assert [str(member.views) for member in loaded.members] == ["none", "flip", "flip"]
    first, second, _ = loaded.predict_members(pictures())
    assert np.allclose(first.probabilities, plain.predict_members(pictures())[0].probabilities)
    assert not np.allclose(second.probabilities, plain.predict_members(pictures())[1].probabilities)


def test_members_without_tta_in_the_manifest_are_plain(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    path = bundles["average"].with_tta("flip").save(tmp_path / "bundle")
    manifest = read_manifest(path)
    assert {json.dumps(member.pop("tta")) for member in manifest["members"]} == {'{"views": "flip", "seed": 0}'}
    write_manifest(path, {key: value for key, value in manifest.items() if key != "format"})
    images = pictures()
    assert np.array_equal(
        load_bundle(path).predict(images).probabilities, bundles["average"].predict(images).probabilities
    )
    assert "tta" not in read_manifest(bundles["single"].save(tmp_path / "plain"))["members"][0]


@pytest.mark.parametrize(
    "tta", [{"views": "mirror", "seed": 0}, {"views": "crops:1,3@1.5x", "seed": 0}, {"seed": 0}, 3]
)
def test_invalid_tta_in_a_manifest_is_refused(bundles: dict[str, Bundle], tmp_path: Path, tta: object) -> None:
    path = bundles["single"].save(tmp_path / "bundle")
    manifest = read_manifest(path)
    manifest["members"][0]["tta"] = tta
    write_manifest(path, {key: value for key, value in manifest.items() if key != "format"})
    with pytest.raises(ModelError):
        load_bundle(path)


def test_tta_as_text_keeps_the_seed(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["single"].with_tta(TTAConfig(seed=8))
    assert bundle.plain
    assert bundle.with_tta("crops:2@2x").members[0].views.seed == 8
    assert bundle.with_tta(TTAConfig.parse("flip", seed=1)).members[0].views.seed == 1


@pytest.mark.parametrize(
    ("tta", "message"), [("crops:1,3@20", "one number"), ("crops:3@11", "at least 12"), ("flop", "unknown view")]
)
def test_invalid_tta_is_refused(bundles: dict[str, Bundle], tta: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bundles["single"].with_tta(tta)


def test_tta_keeps_the_crop_mode_of_the_member() -> None:
    member = make_member("colours")
    spec = replace(member.classifier.spec, crop_mode="border")
    member.classifier.spec = spec
    shapes: list[tuple[int, ...]] = []
    member.classifier.features.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    bundle = Bundle(CLASSES, (member,)).with_tta("crops:2@24+vflip")
    assert bundle.specs[0].size == (30, 24) and bundle.specs[0].crop_mode == "border"
    bundle.predict(pictures(3))
    assert shapes == [(3, 3, 20, 16)] * 4


def test_tta_does_not_change_the_weights() -> None:
    bundle = make_bundle("single")
    before = {name: value.clone() for name, value in bundle.members[0].classifier.state_dict().items()}
    bundle.with_tta("crops:2@1.5x").predict(pictures(2))
    after = bundle.members[0].classifier.state_dict()
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
