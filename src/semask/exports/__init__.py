"""Exported files: a model as one graph, the proof that it is the same model, and its runtimes as predictors."""
