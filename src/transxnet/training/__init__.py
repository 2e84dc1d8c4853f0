"""What all tasks share: the recipe, the run folder, progress and curves."""
