"""Workload rows: ingest, transitions, audit, limits and queue keys."""
