"""Published key layouts, one file per family: from the authors' names to ours."""
