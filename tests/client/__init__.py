"""Tests of the command line client: its modules, and the commands as users run them."""
