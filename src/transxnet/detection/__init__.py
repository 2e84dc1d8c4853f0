"""Object detection and instance segmentation: training, evaluation and prediction."""
