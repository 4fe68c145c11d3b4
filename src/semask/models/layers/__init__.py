"""Layers that several encoders or decoders share."""
