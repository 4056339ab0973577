"""What tests, demo, bench and `make up` are built from: cluster, Postgres, operator processes, all together."""
