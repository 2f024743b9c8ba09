"""unclip: an experiment framework for text-to-image diffusion by unCLIP.

Importing it imports neither torch nor Hydra.
"""

__version__ = "0.1.0"
