"""Predict with an exported ONNX file, without Tercet: needs onnxruntime, numpy and Pillow.

python examples/run_onnx.py model.onnx cat.jpg dog.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def read(path: str) -> np.ndarray:
    """Return an image H W 3, decoded as in Tercet: upright, transparency on white, 16 bits scaled."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I;16"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["tercet"])["classes"]
    for path in sys.argv[2:]:
        probabilities = session.run(["probabilities"], {"images": read(path)[None]})[0][0]  # 1 H W 3 to K
        print(f"{path}: {classes[probabilities.argmax()]} {probabilities.max():.3f}")
