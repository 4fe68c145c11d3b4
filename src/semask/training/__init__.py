"""Training: the only code that knows Lightning."""
