"""Train and combine two networks on a folder of images, and print the report.

    python examples/train_from_folder.py

The images are 600 handwritten digits of scikit-learn, written as PNG files to runs/example-images/DIGIT/. Use your own
folder instead: one sub-folder per class.
"""

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits

import tercet


def write_images(root: Path, count: int = 600) -> Path:
    """Write the first `count` digits as 8 x 8 grey files, one folder per class."""
    digits = load_digits()
    for row in range(count):
        folder = root / str(digits.target[row])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[row] * (255 / 16)).round().astype("uint8")  # values 0..16
        Image.fromarray(pixels).save(folder / f"{row:04d}.png")
    return root


if __name__ == "__main__":
    folder = write_images(Path("runs/example-images"))
    run = tercet.train(
        folder,
        members=["small-cnn", {"model": "row-gru", "hidden_size": 32, "num_layers": 1}],
        epochs=10,
        lr=3e-3,
        ensemble_methods=["average", "weighted", "vote"],
    )
    print(run.report)
    print(f"run folder: {run.path}")
