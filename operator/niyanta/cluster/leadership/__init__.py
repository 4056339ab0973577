"""Leader election through Postgres and the fence that refuses pods of older epochs."""
