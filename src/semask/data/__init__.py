"""Images and labels: reading, pairing, checking, drawing, augmenting."""
