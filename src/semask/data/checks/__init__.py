"""What can be wrong with a data set, and statistics of it."""
