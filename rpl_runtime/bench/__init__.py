"""Latency and throughput of the runtime, beside other transports."""
