"""Data sets of captioned images in memory, and what turns them into batches, tokens and frozen embeddings."""
