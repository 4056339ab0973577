"""User commands: each module adds commands that call the REST door."""
