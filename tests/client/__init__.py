"""The command line, as its users run it, and its parts."""
