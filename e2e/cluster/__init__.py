"""The control plane itself, and the client and reflectors on it."""
