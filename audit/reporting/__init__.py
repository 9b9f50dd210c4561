"""The report: findings → one self-contained page."""
