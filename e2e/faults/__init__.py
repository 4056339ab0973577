"""Leaders that die, and Postgres that goes away."""
