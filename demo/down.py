"""`make down`: removes the environment of `make up`. Safe to run at any time."""

from __future__ import annotations

from testing import kept_environment


def main() -> int:
    print("Removed." if kept_environment.remove() else "No environment is running.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
