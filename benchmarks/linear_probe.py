"""A linear probe with timm and scikit-learn, for comparison with `tercet probe` (see first_minute.py).

    python benchmarks/linear_probe.py FOLDER RUN/samples.csv WEIGHTS.safetensors

FOLDER contains the images; the splits are those of a run. Input size, resize and candidates of C are those of Tercet.
Prints accuracies, and the test images that are misclassified, as JSON.
"""

import csv
import json
import sys
from pathlib import Path

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  # timm cannot import torchvision without it
import numpy as np
import timm
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

folder, samples, weights = map(Path, sys.argv[1:4])
encoder = timm.create_model("mobilenetv2_100", num_classes=0, checkpoint_path=str(weights)).eval()
mean, std = (np.array(encoder.pretrained_cfg[key], dtype=np.float32) for key in ("mean", "std"))


def pixels(name: str) -> torch.Tensor:
    image = Image.open(folder / name).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy((np.asarray(image, dtype=np.float32) / 255 - mean) / std).permute(2, 0, 1)


with samples.open(newline="", encoding="utf-8") as file:
    rows = [row for row in csv.DictReader(file) if row["split"]]
batches = [rows[start : start + 64] for start in range(0, len(rows), 64)]
with torch.inference_mode():
    features = np.concatenate([encoder(torch.stack([pixels(row["location"]) for row in batch])) for batch in batches])
labels, splits = np.array([row["label"] for row in rows]), np.array([row["split"] for row in rows])
search = GridSearchCV(
    make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
    {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]},
    scoring="neg_log_loss",
    cv=3,
).fit(features[splits == "train"], labels[splits == "train"])
correct = search.predict(features) == labels
errors = [row["id"] for row, right in zip(rows, correct, strict=True) if row["split"] == "test" and not right]
accuracies = {split: float(correct[splits == split].mean()) for split in ("train", "val", "test")}
print(json.dumps({**accuracies, "n": int((splits == "test").sum()), **search.best_params_, "errors": errors}))
