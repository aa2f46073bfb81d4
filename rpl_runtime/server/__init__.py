"""The gRPC server: calls, streams, start and stop."""
