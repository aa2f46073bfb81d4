"""Tasks: the goals of a policy, and the world in which it reaches them."""
