import json
from pathlib import Path

import numpy as np
import pytest
from tests.ensemble.test_tampering import forge
from tests.fixtures.bundles import CLASSES, NAMES, make_member

from tercet.core.errors import ModelError
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.ensemble.combine import Combiner
from tercet.ensemble.combiners import FoldCombiner, FoldMean
from tercet.models.fusion_head import FusionHead

PICTURES = [np.random.default_rng(0).integers(0, 256, (15, 13, 3), dtype=np.uint8) for _ in range(4)]


def single() -> Bundle:
    return Bundle(CLASSES, (make_member("rows"),))


def several(combiner: Combiner | FusionHead) -> Bundle:
    return Bundle(CLASSES, tuple(make_member(name) for name in NAMES), combiner)


def mean_of(*bundles: Bundle) -> Bundle:
    parts = tuple(FoldCombiner(len(bundle.members), bundle.combiner) for bundle in bundles)  # type: ignore[arg-type]
    return Bundle(CLASSES, tuple(member for bundle in bundles for member in bundle.members), FoldMean(parts))


def test_the_mean_of_folds_is_the_mean_of_the_fold_predictions(tmp_path: Path) -> None:
    folds = (
        single(),
        several(Combiner("vote", NAMES)),
        several(Combiner("weighted", NAMES, weights=(0.7, 0.2, 0.1))),
        several(FusionHead(3, len(CLASSES), width=5)),
        several(FusionHead(3, len(CLASSES), width=0)),
    )
    bundle = mean_of(*folds)
    expected = np.mean([fold.predict(PICTURES).probabilities for fold in folds], axis=0)
    np.testing.assert_allclose(bundle.predict(PICTURES).probabilities, expected, atol=1e-6)
    loaded = load_bundle(bundle.save(tmp_path / "bundle"))
    assert loaded.name == "fold-mean" and len(loaded.members) == 13
    assert loaded.parameters == sum(fold.parameters for fold in folds)
    np.testing.assert_array_equal(loaded.predict(PICTURES).probabilities, bundle.predict(PICTURES).probabilities)
    heads = sorted(path.name for path in (tmp_path / "bundle").glob("head*"))
    assert heads == ["head-4.safetensors", "head-5.safetensors"]


def test_a_fold_of_several_members_needs_a_combiner() -> None:
    with pytest.raises(ModelError, match="2 members"):
        FoldCombiner(2)
    with pytest.raises(ModelError, match="2 members, not 1"):
        FoldMean((FoldCombiner(1), FoldCombiner(1))).fold_predictions(single().predict_members(PICTURES))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [{"members": 3, "combiner": None}],
        [{"members": 1, "combiner": None}],
        [{"members": True, "combiner": None}, {"members": 2.0, "combiner": None}],
        [{"members": 3, "combiner": {"method": "fold-mean", "parts": []}}],
        [{"members": 3, "combiner": Combiner("average", ("a", "b")).to_dict()}],
        {"members": 3},
    ],
    ids=json.dumps,
)
def test_malformed_folds_are_refused(parts: object, tmp_path: Path) -> None:
    folder = several(Combiner("average", NAMES)).save(tmp_path / "bundle")
    forge(folder, lambda manifest: manifest.update(combiner={"method": "fold-mean", "parts": parts}))
    with pytest.raises(ModelError) as caught:
        load_bundle(folder)
    assert "\n" not in str(caught.value)
