"""From a pyramid of features to class scores; one file per decoder."""
