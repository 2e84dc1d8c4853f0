"""RetinaNet and Mask R-CNN on torchvision's detection package, as the released detectors compute."""
