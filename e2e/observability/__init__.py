"""Metrics, dashboards and alerts, read by a real Prometheus."""
