"""The command `niyanta`: entry points of the operator, the REST door, migrations and the client."""
