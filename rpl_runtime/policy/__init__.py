"""A policy and its bundle: spec, manifest, ONNX graphs, model card."""
