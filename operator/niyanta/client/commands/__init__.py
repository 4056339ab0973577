"""Client commands, which call the REST door."""
