"""The evaluation protocol, run through gRPC: episodes, results, pictures."""
