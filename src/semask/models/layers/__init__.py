"""Blocks that know tensors, not tasks."""
