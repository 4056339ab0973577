"""A stored class: what Postgres calls a queue class. Rows of one spec, customer and namespace that no visible label
tells apart."""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_CLASSES = 100_000
"""Most classes that are known, of all customers. One that has more than an equal share takes turns among its own."""

MOST_ROWS_OF_CLASS = 64
"""Most rows of a class that are loaded as soon as they are heard of, while memory has much room."""

GROWN_ROWS_OF_CLASS = 8 * MOST_ROWS_OF_CLASS
"""Most rows of a class that is being placed."""

ClassName = tuple[str, str]
"""Customer and stored class."""


@dataclass(frozen=True, slots=True)
class OutsideRows:
    """Pending REST rows of a stored class that only Postgres has. `like`: a row of the class in memory, if there is
    one. `oldest_us`: the smallest `queued_at` of the class, µs."""

    customer: str
    queue_class: str
    namespace: str
    replicas: int
    workloads: int
    oldest_us: int
    like: str | None


@dataclass(slots=True, eq=False)
class StoredClass:
    """One stored class with pending REST rows."""

    customer: str
    name: str
    """Empty: rows without a class."""
    namespace: str = ""
    replicas: int = 1
    pending: int = 0
    """Rows in Postgres, in memory or not: as counted last, and what the leader changed since."""
    oldest_us: int = 0
    key: int = 0
    """The highest queue key, as counted last."""
    rows: dict[str, int] = field(default_factory=dict)
    """Rows in memory and their queue keys."""
    wanted: int = 1
    """Rows that memory should have."""
    complete: bool = False
    """Memory has every row that isn't in backoff."""
    is_due: bool = False
    turn: int = 0
    """0, or the pass in which it took the place of another class, beyond the bound of classes."""
    counted_in: int = 0
    """Number of the last pass over all classes that found it."""

    @property
    def outside(self) -> int:
        """Rows that only Postgres has."""
        return max(0, self.pending - len(self.rows))

    @property
    def lacks(self) -> bool:
        """True if rows of it should be loaded."""
        return not self.complete and len(self.rows) < self.wanted and self.outside > 0

    def outside_rows(self) -> OutsideRows:
        """The rows outside memory."""
        like = next(iter(self.rows), None)
        return OutsideRows(
            *(self.customer, self.name, self.namespace, self.replicas, self.outside, self.oldest_us),
            like,
        )
