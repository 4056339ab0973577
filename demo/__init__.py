"""`make demo`, `make picture`, `make up` and `make down`."""
