"""Counts the moves between Niyanta's files in its four flows."""
