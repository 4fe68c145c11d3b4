"""Models on disk: our own directories, and the files that authors published."""
