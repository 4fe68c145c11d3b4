"""Architectures: encoders, decoders, pixel decoders and their layers; `build.py` puts them together."""
