"""The main job: from a model and a budget to a checkpoint."""
