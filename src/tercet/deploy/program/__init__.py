"""From a bundle to one program of PyTorch: preprocessing, members, combiner and calibration as one `torch.export`."""
