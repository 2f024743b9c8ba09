"""Lightning callbacks: averaged weights, checkpoints, progress, pictures and FID while a stage trains."""
