"""Load a bundle and classify images that are files, arrays, or PIL images.

    python examples/predict_with_bundle.py [RUN]

RUN is a run folder or a bundle made from 8 x 8 grey digits, such as the one that train_from_folder.py leaves. Without
it a small network is trained first.
"""

import sys

from PIL import Image
from sklearn.datasets import load_digits

import tercet

SHOWN = (1700, 1750, 1790)  # rows of the data set

if __name__ == "__main__":
    given = sys.argv[1:] or [tercet.train("digits", members=["small-cnn"], epochs=10, lr=3e-3).path]
    bundle = tercet.load_bundle(given[0])
    digits = load_digits()
    arrays = [(digits.images[row] * (255 / 16)).round().astype("uint8") for row in SHOWN]  # H W, uint8
    pictures = [Image.fromarray(array) for array in arrays]
    answers = bundle.predict([*arrays, *pictures])  # Predictions: ids, classes, probabilities N K
    for name, said, shares in zip(answers.ids, answers.predicted_names, answers.probabilities, strict=True):
        row = SHOWN[int(name) % len(SHOWN)]
        print(f"image {name}: {said} ({shares.max():.2f}), in truth {digits.target[row]}")
