"""`make down`: removes what `make up` left. Safe to run at any time."""

from __future__ import annotations

from e2e.harness import standing


def main() -> int:
    print("Removed." if standing.remove() else "Nothing is up.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
