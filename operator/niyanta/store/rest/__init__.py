"""The REST door's record: submissions, idempotency and API keys."""
