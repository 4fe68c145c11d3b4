"""Encoders: images to a pyramid of features, mostly by backbones of timm."""
