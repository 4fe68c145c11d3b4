"""What refines a pyramid of maps and embeds every pixel, for mask classification."""
