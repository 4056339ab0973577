"""Submission: request body to manifest to a batched transaction, with limits and backpressure."""
