"""Image classification: training, evaluation and prediction."""
