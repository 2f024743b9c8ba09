"""From overrides to one checked, resolved configuration. Imports neither torch nor Lightning."""
