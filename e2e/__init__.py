"""End-to-end: a real Kubernetes control plane, a real Postgres, and the operator as a local process."""
