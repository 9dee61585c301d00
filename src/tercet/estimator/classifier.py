"""`TercetClassifier`: training, prediction and export with the interface of a scikit-learn classifier."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score
from sklearn.utils import check_array, check_random_state, column_or_1d, estimator_html_repr
from sklearn.utils.multiclass import check_classification_targets

from tercet.config.option_types import TrainOptions
from tercet.config.run import DataConfig
from tercet.core.errors import ConfigError, DataError, Interrupted
from tercet.core.frames import data_frame
from tercet.core.multilabel import MultilabelPredictions
from tercet.core.predictions import Predictions
from tercet.core.runtime import choose_device
from tercet.data.in_memory import DataLike, resolve_data, table_from_arrays
from tercet.data.inputs import ImageLike, is_dataset, is_frame
from tercet.data.load import load_table
from tercet.data.table import UNLABELLED, SampleTable
from tercet.ensemble.bundle import Bundle, load_bundle
from tercet.experiments.results import history_rows, result_rows, results_html
from tercet.experiments.train import Run, train
from tercet.export.export import ExportResult, export_model

_EXPLICIT = ("members", "epochs", "lr", "batch_size", "augment", "ensemble_methods", "tta", "device", "threads")
"""Constructor parameters that are options of `train`; None leaves the default of the option."""


class TercetClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An ensemble of image classifiers with the interface of a scikit-learn classifier.

    Images are arrays N H W or N H W C (uint8, or floats that are multiples of 1/255), tensors N C H W, lists of paths,
    arrays or PIL images of any sizes, DataFrames with a column of paths, or Datasets; not arrays N x features.

    Args:
        members: Networks to train, as for `tercet.train` (default: three suitable ones).
        epochs: Number of epochs.
        lr: Learning rate.
        batch_size: Images per optimizer step.
        augment: Augmentation.
        ensemble_methods: Ensemble methods to try; the simplest model not measurably worse than the best is selected.
        tta: Test-time augmentation to try.
        val_fraction: Fraction of the images for validation, on which epochs, ensemble and calibration are chosen.
        test_fraction: Fraction of the images that is neither trained nor validated on; 0, as tests are the caller's.
        device: auto, cpu, cuda, cuda:N or mps.
        threads: Threads per process.
        random_state: Seed of splits, weights, data order and augmentation.
        output: Run folder of `fit`, which must not exist; None: a temporary one, deleted with the estimator.
        verbose: Whether to show progress.
        options: Further options of `tercet.train`, such as `{"monitor": "macro_f1", "data": {"num_workers": 2}}`.

    Attributes:
        classes_: The classes, sorted, in the type of `y`; for multi-label `y` the K columns or names.
        bundle_: The trained ensemble, a `tercet.Bundle`.
        metrics_: Content of the run's `metrics.json`.
        run_: The run folder; None after `load` or unpickling.
        history_: DataFrame of the epochs of all members.
        results_: DataFrame of the scores of members and ensembles.
    """

    def __init__(
        self,
        members: Sequence[Any] | None = None,
        *,
        epochs: float | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        augment: Any = None,
        ensemble_methods: Sequence[str] | None = None,
        tta: str | None = None,
        val_fraction: float = 0.15,
        test_fraction: float = 0.0,
        device: str = "auto",
        threads: int | None = None,
        random_state: Any = None,
        output: str | Path | None = None,
        verbose: bool = True,
        options: TrainOptions | Mapping[str, Any] | None = None,
    ) -> None:
        self.members = members
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.augment = augment
        self.ensemble_methods = ensemble_methods
        self.tta = tta
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.device = device
        self.threads = threads
        self.random_state = random_state
        self.output = output
        self.verbose = verbose
        self.options = options

    def fit(self, X: DataLike, y: Any = None) -> Self:
        """Train the members and their ensemble.

        Args:
            X: Images; or without `y` labelled data: a folder, table, zip, name of a data set, DataFrame or Dataset.
            y: N labels of any type, an indicator array N K of 0 and 1, or N sets of names.

        Raises:
            TercetError: See `tercet.core.errors`; no run folder is left behind by invalid data or options.
        """
        data, classes = self._training_data(X, y)
        remove = None
        if self.output is not None:
            output = Path(self.output)
        else:
            temporary = tempfile.mkdtemp(prefix="tercet-")
            remove = weakref.finalize(self, shutil.rmtree, temporary, ignore_errors=True)
            output = Path(temporary, "run")
        try:
            run: Run = train(data, console=None if self.verbose else False, **{**self._options(), "output": output})
        except BaseException as error:
            if remove is not None:
                remove()
                if isinstance(error, Interrupted):
                    text = "training stopped, and its temporary folder was deleted: to resume a run, give output=FOLDER"
                    raise Interrupted(text, error.exit_code - 128) from error
            raise
        if (earlier := vars(self).get("_remove_run")) is not None:
            earlier()
        self._remove_run = remove
        self.run_: Path | None = run.path
        self.metrics_, self._report = run.metrics, run.report
        self._history = history_rows(run.path)
        bundle = run.bundle()
        self.classes_ = np.array(bundle.classes) if classes is None else classes
        data_card = {**bundle.card["data"], "label_type": self.classes_.dtype.kind}  # for `load`
        self.bundle_ = replace(bundle, card={**bundle.card, "data": data_card})
        return self

    def _training_data(self, X: DataLike, y: Any) -> tuple[DataLike, NDArray[Any] | None]:
        """Return labelled data, and the classes in the type of `y`; None to use the names of the data."""
        if y is None:
            if not (isinstance(X, (str, Path, SampleTable)) or is_frame(X) or is_dataset(X)):
                raise ValueError(
                    "requires y to be passed, but the target y is None: fit(X, y), or fit a folder, table or Dataset"
                )
            return X, None
        if isinstance(X, (str, Path, SampleTable)):
            raise DataError("a folder, table or data set has labels of its own: fit(X) without y")
        labels = y.to_numpy() if hasattr(y, "to_numpy") else y
        if isinstance(labels, (list, tuple)) and any(isinstance(label, (set, frozenset)) for label in labels):
            return (X, labels), None
        labels = np.asarray(labels)
        if labels.ndim == 2 and labels.shape[1] > 1:
            return (X, labels), np.arange(labels.shape[1])
        labels = column_or_1d(check_array(labels, ensure_2d=False, dtype=None, input_name="y"), warn=True)
        if labels.dtype.kind == "O" and any(label is None for label in labels):
            raise DataError("y contains None: remove the unlabelled images")
        check_classification_targets(labels)
        classes, indices = np.unique(labels, return_inverse=True)
        return table_from_arrays(X, indices, classes=[str(name) for name in classes.tolist()]), classes

    def _options(self) -> dict[str, Any]:
        """Return the options of `train`; those of `options` prevail."""
        given = {name: getattr(self, name) for name in _EXPLICIT if getattr(self, name) is not None}
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31)
        sections = {
            "data.val_fraction": self.val_fraction,
            "data.test_fraction": self.test_fraction,
            "data.split_seed": int(seed),
        }
        options = dict(self.options or {})
        if "output" in options:
            raise ConfigError("options['output']: give the run folder as TercetClassifier(output=...)")
        nested = options.pop("data", {})
        options |= {f"data.{key}": value for key, value in nested.items()}
        return {**given, "seed": int(seed), **sections, **options}

    def predict(self, X: ImageLike) -> NDArray[Any]:
        """Return the most probable class of each image (N), or an indicator array (N K) for multi-label data."""
        predictions = self._predict(X)
        if isinstance(predictions, MultilabelPredictions):
            return predictions.chosen.astype(np.int64)
        return np.asarray(self.classes_[predictions.predicted])

    def predict_proba(self, X: ImageLike) -> NDArray[np.float64]:
        """Return class probabilities (N K) in the order of `classes_`; for multi-label data the labels' scores."""
        predictions = self._predict(X)
        return predictions.scores if isinstance(predictions, MultilabelPredictions) else predictions.probabilities

    def _predict(self, X: ImageLike) -> Predictions | MultilabelPredictions:
        bundle = self._fitted_bundle()
        images = X if isinstance(X, (str, Path, SampleTable)) or is_dataset(X) else table_from_arrays(X)
        return bundle.predict(images, device=choose_device(self.device))

    def _fitted_bundle(self) -> Bundle:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")
        return self.bundle_

    def score(self, X: DataLike, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy (the share of exact label sets for multi-label data).

        Args:
            X: Images, or labelled data as for `fit`.
            y: Labels.
            sample_weight: N weights.
        """
        if y is not None:
            return float(accuracy_score(y, self.predict(X), sample_weight=sample_weight))
        config = DataConfig()
        table = load_table(resolve_data(X, config), config, min_classes=1)
        table = table.take(np.flatnonzero(table.labels != UNLABELLED))
        if table.membership is not None:
            raise DataError("give the label sets as y: score(X, y)")
        predictions = self._predict(table)
        return float(accuracy_score(table.label_names(), predictions.predicted_names, sample_weight=sample_weight))

    @property
    def history_(self) -> Any:
        """DataFrame with one row per member and epoch."""
        return self._frame("_history")

    @property
    def results_(self) -> Any:
        """DataFrame with the scores of members and ensembles."""
        return self._frame("metrics_")

    def _frame(self, attribute: str) -> Any:
        rows = vars(self).get(attribute)
        if rows is None:
            raise NotFittedError(f"this {type(self).__name__} has no results: call fit")
        try:
            return data_frame(result_rows(rows) if attribute == "metrics_" else rows)
        except ConfigError as error:  # hasattr and the display in notebooks expect this type from a property
            raise AttributeError(str(error)) from error

    def save(self, path: str | Path) -> Path:
        """Write the ensemble as a bundle, which `load` and all commands read."""
        return self._fitted_bundle().save(path)

    @classmethod
    def load(cls, path: str | Path, **parameters: Any) -> Self:
        """Return a fitted estimator from a bundle or run folder, with constructor parameters.

        Raises:
            ModelError: The folder is not a bundle, or was changed.
        """
        estimator = cls(**parameters)
        estimator.bundle_ = load_bundle(path)
        kind = estimator.bundle_.card.get("data", {}).get("label_type")
        convert: dict[Any, Callable[[str], Any]] = {"i": int, "u": int, "f": float, "b": lambda name: name == "True"}
        estimator.classes_ = np.array([convert.get(kind, str)(name) for name in estimator.bundle_.classes])
        estimator.run_ = None
        return estimator

    def export(self, path: str | Path, **options: Any) -> ExportResult:
        """Write the ensemble as one verified file; see `tercet.export_model` for the options."""
        bundle = self._fitted_bundle()
        return export_model(bundle if self.run_ is None else self.run_, path, **options)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "bundle_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True  # paths
        tags.target_tags.required = False  # folders and datasets have labels
        tags.classifier_tags.multi_label = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if (remove := state.pop("_remove_run", None)) is not None and remove.alive:
            state["run_"] = None  # its temporary folder is deleted with this object
        return state

    def _html_repr(self) -> str:
        text: str = estimator_html_repr(self)
        run = getattr(self, "run_", None)
        return text if run is None else text + results_html(run, self._report)
