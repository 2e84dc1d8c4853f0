"""Semantic segmentation: training, evaluation and prediction."""
