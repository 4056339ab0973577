"""Commands of `niyanta` that need the database; `cli` registers them."""
