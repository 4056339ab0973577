"""Servers and `niyanta` commands as local processes."""
