"""The chart: what it renders, what an installation may do, what the fence refuses, and what an uninstall leaves."""
