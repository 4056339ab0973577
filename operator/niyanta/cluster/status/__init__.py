"""Workload status and Kubernetes Events, written from rows."""
