"""From images to a pyramid of features; the only code that knows timm."""
