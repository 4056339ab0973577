"""Storage for the REST door: submissions, idempotency keys and API keys."""
