"""Read-only queries and the choice between primary and replicas."""
