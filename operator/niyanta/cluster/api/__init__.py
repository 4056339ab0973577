"""Requests to the API server: connection, transport, client, error kinds and object types."""
