"""What looks wrong, by rule, by series and by model."""
