"""Load a bundle and predict arrays and PIL images.

    python examples/predict_with_bundle.py [RUN]

RUN is a run folder or bundle for 8 x 8 grey digits, such as the one of train_from_folder.py. Without it a small network
is trained first.
"""

import sys

from PIL import Image
from sklearn.datasets import load_digits

import tercet

ROWS = (1700, 1750, 1790)  # rows of the data set

if __name__ == "__main__":
    path = sys.argv[1] if sys.argv[1:] else tercet.train("digits", members=["small-cnn"], epochs=10, lr=3e-3).path
    bundle = tercet.load_bundle(path)
    digits = load_digits()
    arrays = [(digits.images[row] * (255 / 16)).round().astype("uint8") for row in ROWS]  # H W, uint8
    images = [Image.fromarray(array) for array in arrays]
    predictions = bundle.predict([*arrays, *images])  # ids, classes, probabilities N K
    columns = (predictions.ids, predictions.predicted_names, predictions.probabilities)
    for name, label, probabilities in zip(*columns, strict=True):
        row = ROWS[int(name) % len(ROWS)]
        print(f"image {name}: {label} ({probabilities.max():.2f}), true label {digits.target[row]}")
