"""What looks wrong with a node, by model and by rule."""
