"""Vocabulary of tests: workloads, pools and autoscalers."""
