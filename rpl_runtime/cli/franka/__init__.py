"""Commands of a Franka alone."""
