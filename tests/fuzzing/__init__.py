"""Mutated files, read to the end by the program's own readers in processes that may die."""
