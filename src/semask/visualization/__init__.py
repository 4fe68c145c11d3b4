"""Colours, figures, explanations of a model, and pages."""
