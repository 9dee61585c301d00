"""Fine-tuning with fastai in three lines, for comparison with Tercet (see first_minute.py).

    python benchmarks/fastai_fine_tune.py FOLDER RUN/samples.csv WEIGHTS.safetensors EPOCHS

FOLDER contains the images; the splits are those of a run. Runs in an environment with fastai, and with Tercet's source
on PYTHONPATH, for one file. Prints accuracies as JSON.
"""

import json
import sys
from pathlib import Path

import tercet.core.torchvision_ops  # noqa: F401  # isort: skip  # fastai cannot import torchvision without it
from fastai.vision import all as fastai  # type: ignore[import-not-found]
from safetensors.torch import load_file

folder, samples, weights = map(Path, sys.argv[1:4])
fastai.set_seed(0)
table = fastai.pd.read_csv(samples)
table = table[table.split.notna()]
fitted = table[table.split != "test"].assign(is_valid=lambda rows: rows.split == "val")
block = fastai.DataBlock(
    (fastai.ImageBlock, fastai.CategoryBlock),
    get_x=fastai.ColReader("location", pref=folder),
    get_y=fastai.ColReader("label"),
    splitter=fastai.ColSplitter(),
    item_tfms=fastai.Resize(224),
    batch_tfms=fastai.Normalize.from_stats(*fastai.imagenet_stats),
)
data = block.dataloaders(fitted, bs=64, num_workers=0)
learner = fastai.vision_learner(data, "mobilenetv2_100", pretrained=False, metrics=fastai.accuracy)
learner.model[0].model.load_state_dict(load_file(weights))
learner.freeze()  # as vision_learner does with pretrained weights of its own
learner.fine_tune(int(sys.argv[4]))
held_out = table[table.split == "test"]
accuracies = {
    "val": float(learner.validate()[1]),
    "test": float(learner.validate(dl=data.test_dl(held_out, with_labels=True))[1]),
}
print(json.dumps({**accuracies, "n": len(held_out)}))
