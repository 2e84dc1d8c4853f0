"""Reading image files of any format, depth and number of bands."""
