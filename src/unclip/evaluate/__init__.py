"""Judging images and embeddings: feature extractors, distances between distributions, agreement with prompts.
Pure functions on tensors; nothing here trains, samples or knows of runs."""
