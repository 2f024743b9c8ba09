"""What a person looks at afterwards: picture grids, curves, one self-contained page."""
