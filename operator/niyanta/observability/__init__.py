"""Logging, metric collectors, the metrics page, and the HTTP server of probes and /metrics."""
