"""`make demo`, `make up` and `make down`."""
