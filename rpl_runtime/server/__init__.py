"""The gRPC server: calls, streams, and its life from start to stop."""
