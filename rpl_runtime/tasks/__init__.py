"""Tasks: what a policy is asked to do, and the world it does it in."""
