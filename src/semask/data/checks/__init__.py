"""Issues and statistics of data sets."""
