"""From files to batches: sample tables, splits, decoded images, loaders, augmentation."""
