"""The queue: classes of equal workloads by customer, their order, and the classes that are parked until a change."""
