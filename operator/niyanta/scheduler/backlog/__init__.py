"""The backlog of the REST door: rows that other processes write, and loading of the first rows of each class."""
