"""Start of a leadership: memory, objects, rows and pods are brought into agreement before anything is placed."""
