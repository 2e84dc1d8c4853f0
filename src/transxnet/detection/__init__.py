"""Object detection: recipe, experiment, task, evaluation and prediction."""
