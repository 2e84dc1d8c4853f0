"""Semantic segmentation: recipe, experiment, task, evaluation and prediction."""
