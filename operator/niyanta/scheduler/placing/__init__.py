"""The placement cycle."""
