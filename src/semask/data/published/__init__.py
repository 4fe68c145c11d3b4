"""The official downloads of published data sets, and submissions to their servers."""
