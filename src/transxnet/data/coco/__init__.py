"""Images with annotated objects, in COCO's format."""
