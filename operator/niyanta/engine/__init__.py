"""The scheduling core: an immutable view in, a plan out. Standard library and numpy only; no I/O, no clock."""
