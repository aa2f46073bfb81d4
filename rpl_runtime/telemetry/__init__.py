"""Observability of a server: metrics, traces and logs."""
