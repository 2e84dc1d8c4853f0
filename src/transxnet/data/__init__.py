"""Data sets and transforms: folders of images, and the embedded sets."""
