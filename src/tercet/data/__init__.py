"""Floor 2: from files to batches: sample tables, splits, decoded images, loaders, augmentation."""
