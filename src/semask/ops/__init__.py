"""Tensor functions, each fast path beside its reference; models call them and ask for no device or switch."""
