"""What `unclip bench NAME` measures: a module a benchmark, each side in a process of its own."""
