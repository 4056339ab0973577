"""Test support for tests, demo, bench and `make up`: clusters, Postgres servers, operator processes, scenarios."""
