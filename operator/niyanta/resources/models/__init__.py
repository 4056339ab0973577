"""Pydantic models of Workload, WorkerPool and Customer."""
