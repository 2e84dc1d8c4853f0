"""Image classification: recipe, experiment, task, evaluation and prediction."""
