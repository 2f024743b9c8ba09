"""Runs: what identifies one, where it is kept, what state it is in, and the processes that carry it out."""
