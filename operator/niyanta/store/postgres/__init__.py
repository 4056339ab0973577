"""Connections, migrations, notifications and the embedded server."""
