"""Pages for a browser: one file each, with everything in it, to read on a desk, on a phone or on paper."""
