"""What a policy is and the bundle it is kept in: spec, manifest, ONNX graphs, model card."""
