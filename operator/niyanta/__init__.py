"""Niyanta places batch and GPU workloads on the right worker and keeps the record of it in Postgres."""

__version__ = "0.1.0-alpha.1"
