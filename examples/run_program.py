"""Predict with an exported torch program, without Tercet: `python examples/run_program.py model.pt2 cat.jpg`."""

import json
import sys

import numpy as np
import torch
from PIL import Image, ImageOps

files = {"tercet.json": ""}
program = torch.export.load(sys.argv[1], extra_files=files).module()
for path in sys.argv[2:]:
    pixels = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))  # H W 3
    probabilities = program(torch.from_numpy(pixels)[None])["probabilities"][0]  # 1 H W 3 to K
    print(f"{path}: {json.loads(files['tercet.json'])['classes'][probabilities.argmax()]} {probabilities.max():.3f}")
