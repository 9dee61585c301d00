"""Commands that train: train, ensemble, crossval, compare, tune, reproduce; and their run folders."""
