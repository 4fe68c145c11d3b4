"""From images to a pyramid of features; the only code over timm."""
