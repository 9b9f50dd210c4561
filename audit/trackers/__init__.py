"""Experiment trackers that findings are logged to: one file each, with the same function inside."""
