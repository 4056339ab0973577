"""An independent checker of placements."""
