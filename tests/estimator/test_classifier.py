"""`TercetClassifier`: fit, predict, score, save, load, export, and results."""

import gc
import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import tercet
from tercet import TercetClassifier
from tercet.core.errors import ConfigError, DataError

MEMBERS = [{"model": "row-rnn", "hidden_size": 8, "num_layers": 1}]
RNG = np.random.default_rng(0)
BRIGHT = np.arange(24) % 2 == 1
X = (RNG.integers(0, 60, (24, 8, 8)) + 150 * BRIGHT[:, None, None]).astype(np.uint8)
Y = np.where(BRIGHT, "light", "dark")


def classifier(**parameters: Any) -> TercetClassifier:
    options = {"tensorboard": False, **parameters.pop("options", {})}
    defaults = {"epochs": 3, "lr": 0.02, "threads": 1, "random_state": 0, "verbose": False, "val_fraction": 0.25}
    return TercetClassifier(MEMBERS, **{**defaults, "options": options, **parameters})


@pytest.fixture(scope="module")
def fitted() -> TercetClassifier:
    return classifier().fit(X, Y)


def files(folder: Path) -> list[str]:
    for index, image in enumerate(X):
        path = folder / str(Y[index]) / f"{index}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(image).save(path)
    return [str(folder / str(name) / f"{index}.png") for index, name in enumerate(Y)]


def test_predictions_are_labels_and_probabilities_in_the_order_of_the_classes(fitted: TercetClassifier) -> None:
    assert fitted.classes_.tolist() == ["dark", "light"]
    probabilities = fitted.predict_proba(X)
    assert probabilities.shape == (24, 2) and np.allclose(probabilities.sum(axis=1), 1)
    assert np.array_equal(fitted.predict(X), fitted.classes_[probabilities.argmax(axis=1)])
    assert fitted.score(X, Y) > 0.8 and fitted.score(X, Y) == np.mean(fitted.predict(X) == Y)


@pytest.mark.parametrize("labels", [np.array([3, -7]), np.array([True, False]), np.array([0.5, 10.0]).round()])
def test_predictions_have_the_type_of_the_labels_also_after_loading(labels: Any, tmp_path: Path) -> None:
    y = labels[BRIGHT.astype(int)]
    first = classifier(epochs=1).fit(X, y)
    assert np.array_equal(first.classes_, np.unique(y)) and first.predict(X).dtype == y.dtype
    loaded = TercetClassifier.load(first.save(tmp_path / "bundle"))
    assert loaded.classes_.dtype == y.dtype and np.array_equal(loaded.predict(X), first.predict(X))
    assert loaded.run_ is None


@pytest.mark.parametrize("seed", [None, 2**31 - 1])
def test_without_members_a_classifier_starts_with_a_probe_of_any_seed(seed: int | None) -> None:
    options = {"stop_at": "probe", "tensorboard": False}
    first = TercetClassifier(random_state=seed, threads=1, verbose=False, options=options).fit(X, Y)
    assert first.score(X, Y) > 0.8


def test_folders_tables_paths_and_datasets_are_fitted(fitted: TercetClassifier, tmp_path: Path) -> None:
    paths = files(tmp_path / "photos")
    frame = pandas.DataFrame({"path": paths, "label": Y})
    pairs = torch.utils.data.TensorDataset(torch.tensor(X)[:, None], torch.tensor(BRIGHT.astype(int)))
    for data in ((str(tmp_path / "photos"),), (frame,), (paths, Y), (frame[["path"]], pandas.Series(Y)), (pairs,)):
        first = classifier(epochs=1).fit(*data)
        names = ["0", "1"] if data[0] is pairs else ["dark", "light"]
        assert first.classes_.tolist() == names
        assert first.predict(data[0] if len(data) == 2 else paths).shape == (24,)
        assert 0 <= first.score(*data) <= 1
    assert fitted.predict(paths * 2).tolist() == fitted.predict(X).tolist() * 2
    assert fitted.score(tmp_path / "photos") == fitted.score(X, Y) == fitted.score(frame)


def test_label_sets_give_indicators_and_scores() -> None:
    y = np.stack([BRIGHT, np.arange(24) % 3 == 0], axis=1).astype(int)
    first = classifier(epochs=1).fit(X, y)
    assert first.predict(X).shape == (24, 2) and set(np.unique(first.predict(X))) <= {0, 1}
    assert first.predict_proba(X).shape == (24, 2) and first.classes_.tolist() == [0, 1]
    assert first.score(X, y) == np.mean((first.predict(X) == y).all(axis=1))


def test_it_works_in_cross_validation_search_and_pipelines() -> None:
    assert cross_val_score(classifier(), X, Y, cv=2).shape == (2,)
    images = [Image.fromarray(image) for image in X]
    assert cross_val_score(classifier(epochs=1), images, Y, cv=2).shape == (2,)
    search = GridSearchCV(classifier(epochs=1), {"lr": [0.01, 0.02]}, cv=2, error_score="raise").fit(X, Y)
    assert search.best_params_["lr"] in (0.01, 0.02) and search.predict(X).shape == (24,)
    pipeline = make_pipeline(FunctionTransformer(lambda images: 255 - images), classifier(epochs=1)).fit(X, Y)
    assert pipeline.predict(X).shape == (24,)


def test_the_same_seed_gives_the_same_model_and_a_clone_is_unfitted(fitted: TercetClassifier) -> None:
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params() and not hasattr(copied, "bundle_")
    assert np.array_equal(copied.fit(X, Y).predict_proba(X), fitted.predict_proba(X))


def test_the_temporary_folder_is_removed_with_the_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = classifier(epochs=1).fit(X, Y)
    folder = first.run_
    assert folder is not None and (folder / "metrics.json").is_file()
    restored = pickle.loads(pickle.dumps(first))
    assert restored.run_ is None and np.array_equal(restored.predict_proba(X), first.predict_proba(X))
    assert len(restored.history_) == 1
    del first
    gc.collect()
    assert not folder.exists() and not list(tmp_path.iterdir())


def test_a_given_run_folder_is_kept(tmp_path: Path) -> None:
    first = classifier(epochs=1, output=tmp_path / "run").fit(X, Y)
    assert first.run_ == tmp_path / "run"
    del first
    gc.collect()
    assert (tmp_path / "run" / "bundle").is_dir()
    assert tercet.evaluate(tmp_path / "run", (X, Y), include_seen=True).rows[0].scores.n == 24  # type: ignore[union-attr]


def test_history_and_results_are_data_frames(fitted: TercetClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitted.history_["validation.accuracy"].shape == (3,) and set(fitted.history_["training"]) == {"row-rnn"}
    assert fitted.results_.loc[0, "name"] == "row-rnn" and "validation.accuracy" in fitted.results_
    html = fitted._repr_html_()
    assert "<table" in html and "row-rnn" in html and "data:image" in html
    imported = importlib.import_module

    def without_pandas(name: str) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError(name="pandas")
        return imported(name)

    monkeypatch.setattr("tercet.core.frames.importlib.import_module", without_pandas)
    with pytest.raises(AttributeError, match=r"^data frames require pandas: pip install pandas$"):
        fitted.history_  # noqa: B018
    with pytest.raises(ConfigError, match="pip install pandas"):
        fitted.bundle_.predict(X[..., None]).to_frame()  # type: ignore[union-attr]
    assert "<table" in fitted._repr_html_()


@pytest.mark.slow
def test_export_is_verified_on_validation_images(fitted: TercetClassifier, tmp_path: Path) -> None:
    result = fitted.export(tmp_path / "model.onnx")
    assert result.path.is_file() and "validation" in result.to_text()
    TercetClassifier.load(fitted.save(tmp_path / "bundle")).export(tmp_path / "again.onnx")


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ((X,), ValueError, "requires y to be passed"),
        ((X, Y[:5]), DataError, "5 labels for 24 images"),
        ((X.reshape(24, -1), Y), DataError, r"got ndarray of shape \(24, 64\)"),
        ((X, ["a"] * 24), DataError, "one class"),
        ((X, [None, *Y[1:]]), DataError, "y contains None"),
        ((X, [np.nan] * 24), ValueError, "y contains NaN"),
        ((X, RNG.random(24)), ValueError, "continuous"),
        (("photos", Y), DataError, "has labels of its own"),
        (("absent",), DataError, "no data at 'absent'"),
    ],
)
def test_invalid_data_are_errors(data: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    first = classifier(output=tmp_path / "run")
    with pytest.raises(error, match=message):
        first.fit(*data)
    assert not (tmp_path / "run").exists() and not hasattr(first, "bundle_")


def test_invalid_options_and_unfitted_estimators_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="monitr: unknown option, did you mean 'monitor'"):
        classifier(options={"monitr": "loss"}).fit(X, Y)
    with pytest.raises(ConfigError, match=r"TercetClassifier\(output="):
        classifier(options={"output": "x"}).fit(X, Y)
    for method in (lambda unfitted: unfitted.predict(X), lambda unfitted: unfitted.save(tmp_path / "bundle")):
        with pytest.raises(NotFittedError, match="call fit first"):
            method(classifier())
    with pytest.raises(NotFittedError, match="call fit"):
        classifier().results_  # noqa: B018
