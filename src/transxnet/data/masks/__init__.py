"""Images with masks: a class for each pixel."""
