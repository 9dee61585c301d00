"""Calibration in a bundle: it changes the combined probabilities, not the members, and is saved in the manifest."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fixtures.bundles import NAMES, make_bundle

from tercet.core.calibration import Calibration, PredictionSets, Rejection, apply_temperature
from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.manifest import MANIFEST, read_manifest, write_manifest
from tercet.ensemble.multilabel import MultilabelRule

CALIBRATION = Calibration(
    2.5, 80, 0.2, 0.1, 0.9, 0.7, 0.5, 0.4, Rejection(0.5, 0.1, 0.95, 0.7, 0.05, 40), PredictionSets(0.8, 0.9, 40)
)
IMAGES = [np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8) for seed in range(4)]


@pytest.mark.parametrize("kind", ["single", "weighted", "e2e", "fold-mean"])
def test_the_temperature_is_applied_after_combining(bundles: dict[str, Bundle], kind: str) -> None:
    plain, calibrated = bundles[kind], replace(bundles[kind], calibration=CALIBRATION)
    before, after = plain.predict(IMAGES), calibrated.predict(IMAGES)
    assert np.allclose(after.probabilities, apply_temperature(before.probabilities, 2.5))
    assert not np.allclose(after.probabilities, before.probabilities, atol=1e-4)
    assert np.array_equal(after.predicted, before.predicted)
    for first, second in zip(calibrated.predict_members(IMAGES), plain.predict_members(IMAGES), strict=True):
        assert np.array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize("kind", ["single", "vote", "e2e"])
def test_calibration_is_saved(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    for calibration in (CALIBRATION, replace(CALIBRATION, reject=None, conformal=None), Calibration()):
        calibrated = replace(bundles[kind], calibration=calibration)
        loaded = load_bundle(calibrated.save(tmp_path / "bundle"))
        assert loaded.calibration == calibration
        assert np.array_equal(loaded.predict(IMAGES).probabilities, calibrated.predict(IMAGES).probabilities)
    assert json.loads((tmp_path / "bundle" / MANIFEST).read_text("utf-8"))["calibration"] == Calibration().to_dict()


def test_changing_tta_keeps_the_calibration(bundles: dict[str, Bundle]) -> None:
    calibrated = replace(bundles["average"], calibration=CALIBRATION)
    assert calibrated.with_tta("flip").calibration == CALIBRATION


def test_bundles_of_version_0_1_0_load_without_calibration(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    folder = bundles["average"].save(tmp_path / "bundle")
    manifest = read_manifest(folder)
    assert "calibration" not in manifest
    write_manifest(folder, {**_content(manifest), "temperature": 1.0})  # version 0.1.0
    loaded = load_bundle(folder)
    assert loaded.calibration is None
    assert np.array_equal(loaded.predict(IMAGES).probabilities, bundles["average"].predict(IMAGES).probabilities)


@pytest.mark.parametrize(
    "damage",
    [
        None,
        {},
        {**CALIBRATION.to_dict(), "temperature": 0},
        {**CALIBRATION.to_dict(), "temperature": "calibrated"},
        {**CALIBRATION.to_dict(), "conformal": {"quantile": -1, "coverage": 0.9, "rows": 4}},
    ],
)
def test_a_damaged_calibration_is_refused(bundles: dict[str, Bundle], damage: Any, tmp_path: Path) -> None:
    folder = replace(bundles["single"], calibration=CALIBRATION).save(tmp_path / "bundle")
    write_manifest(folder, {**_content(read_manifest(folder)), "calibration": damage})
    with pytest.raises(ModelError, match=r"calibration|temperature|quantile"):
        load_bundle(folder)


def test_a_changed_temperature_is_detected(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    folder = replace(bundles["single"], calibration=CALIBRATION).save(tmp_path / "bundle")
    text = (folder / MANIFEST).read_text("utf-8")
    assert '"temperature": 2.5' in text
    (folder / MANIFEST).write_text(text.replace('"temperature": 2.5', '"temperature": 1.5'), "utf-8")
    with pytest.raises(ModelError, match="changed"):
        load_bundle(folder)


def test_multilabel_bundles_have_no_calibration() -> None:
    members = make_bundle("average").members
    rule = MultilabelRule("average", (0.5,) * len(NAMES), 0.5)
    with pytest.raises(ModelError, match="multi-label"):
        Bundle(make_bundle("average").classes, members, None, sets=rule, calibration=CALIBRATION)


def _content(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in ("format", "sha256")}
