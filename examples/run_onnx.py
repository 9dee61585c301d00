"""Classify images with an exported file; Tercet is not needed, only onnxruntime, numpy and Pillow.

python examples/run_onnx.py model.onnx cat.jpg dog.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

if __name__ == "__main__":
    session = onnxruntime.InferenceSession(sys.argv[1])
    classes = json.loads(session.get_modelmeta().custom_metadata_map["tercet"])["classes"]
    for path in sys.argv[2:]:
        pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        shares = session.run(["probabilities"], {"images": pixels[None]})[0][0]  # 1 H W 3 to K
        print(f"{path}: {classes[shares.argmax()]} {shares.max():.3f}")
