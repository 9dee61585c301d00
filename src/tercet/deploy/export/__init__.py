"""From a bundle to one ONNX file: preprocessing, members, combiner and calibration as one graph."""
