"""Checkpoints of Hugging Face transformers: reading and writing them."""
