"""What tests, demo, bench and `make up` are built from: cluster, Postgres, operator processes, and all of it together."""
