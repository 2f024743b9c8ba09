"""LightningModules: nets, objectives, optimizers and data wired together. No formula lives here."""
