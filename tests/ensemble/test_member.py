"""Test-time augmentation in a bundle: applied by every way to predict, kept by the manifest, absent in older ones."""

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
from tercet.ensemble.member import read_manifest, write_manifest


@pytest.mark.parametrize("kind", ["single", "average", "e2e"])
def test_the_views_survive_and_are_applied(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    plain = bundles[kind]
    viewed = plain.with_views(TTAConfig.parse("crops:2@1.2x+flip", seed=3))
    loaded = load_bundle(viewed.save(tmp_path / "bundle"))
    assert [member.views for member in loaded.members] == [TTAConfig.parse("crops:2@1.2x+flip", seed=3)] * len(
        plain.members
    )
    images = pictures()
    said = loaded.predict(images).probabilities
    assert np.array_equal(said, viewed.predict(images).probabilities)
    assert not np.allclose(said, plain.predict(images).probabilities)
    assert np.array_equal(loaded.with_views("none").predict(images).probabilities, plain.predict(images).probabilities)
    assert plain.plain and not loaded.plain


def test_mirrored_images_get_the_same_answer_under_flip(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["e2e"].with_views("flip")
    images = pictures()
    mirrored = [image[:, ::-1] for image in images]
    one, other = (bundle.predict(shown).probabilities for shown in (images, mirrored))
    assert np.abs(one - other).max() < 1e-4


def test_views_are_the_same_in_any_batch(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["average"].with_views("crops:3@1.3x")
    one, many = (bundle.predict(pictures(), batch_size=size).probabilities for size in (1, 5))
    assert np.abs(one - many).max() < 1e-5


def test_members_may_differ(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    plain = bundles["average"]
    changed = replace(plain, members=(plain.members[0], *plain.with_views("flip").members[1:]))
    loaded = load_bundle(changed.save(tmp_path / "bundle"))
    assert [str(member.views) for member in loaded.members] == ["none", "flip", "flip"]
    first, second, _ = loaded.predict_members(pictures())
    assert np.allclose(first.probabilities, plain.predict_members(pictures())[0].probabilities)
    assert not np.allclose(second.probabilities, plain.predict_members(pictures())[1].probabilities)


def test_a_bundle_without_the_field_is_plain(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    place = bundles["average"].with_views("flip").save(tmp_path / "bundle")
    manifest = read_manifest(place)
    assert {json.dumps(member.pop("tta")) for member in manifest["members"]} == {'{"views": "flip", "seed": 0}'}
    write_manifest(place, {key: value for key, value in manifest.items() if key != "format"})
    images = pictures()
    assert np.array_equal(
        load_bundle(place).predict(images).probabilities, bundles["average"].predict(images).probabilities
    )
    assert "tta" not in read_manifest(bundles["single"].save(tmp_path / "plain"))["members"][0]


@pytest.mark.parametrize(
    "views", [{"views": "mirror", "seed": 0}, {"views": "crops:1,3@1.5x", "seed": 0}, {"seed": 0}, 3]
)
def test_odd_views_in_a_manifest_are_a_damaged_bundle(
    bundles: dict[str, Bundle], tmp_path: Path, views: object
) -> None:
    place = bundles["single"].save(tmp_path / "bundle")
    manifest = read_manifest(place)
    manifest["members"][0]["tta"] = views
    write_manifest(place, {key: value for key, value in manifest.items() if key != "format"})
    with pytest.raises(ModelError):
        load_bundle(place)


def test_overriding_keeps_the_seed(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["single"].with_views(TTAConfig(seed=8))
    assert bundle.plain
    assert bundle.with_views("crops:2@2x").members[0].views.seed == 8
    assert bundle.with_views(TTAConfig.parse("flip", seed=1)).members[0].views.seed == 1


@pytest.mark.parametrize(
    ("views", "message"), [("crops:1,3@20", "one number"), ("crops:3@11", "at least 12"), ("flop", "unknown view")]
)
def test_views_that_a_member_cannot_have(bundles: dict[str, Bundle], views: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bundles["single"].with_views(views)


def test_the_shape_of_an_image_is_kept_as_the_member_wants_it() -> None:
    member = make_member("colours")
    spec = replace(member.classifier.spec, crop_mode="border")
    member.classifier.spec = spec
    seen: list[tuple[int, ...]] = []
    member.classifier.features.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    bundle = Bundle(CLASSES, (member,)).with_views("crops:2@24+vflip")
    assert bundle.specs[0].size == (30, 24) and bundle.specs[0].crop_mode == "border"
    bundle.predict(pictures(3))
    assert seen == [(3, 3, 20, 16)] * 4


def test_views_leave_weights_alone() -> None:
    bundle = make_bundle("single")
    before = {name: value.clone() for name, value in bundle.members[0].classifier.state_dict().items()}
    bundle.with_views("crops:2@1.5x").predict(pictures(2))
    after = bundle.members[0].classifier.state_dict()
    assert set(before) == set(after) and all(torch.equal(before[name], after[name]) for name in before)
