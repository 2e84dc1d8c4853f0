"""Training runs of all tasks: recipe, run folder, exact resume, callbacks."""
