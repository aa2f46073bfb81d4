"""A live page in the browser: robots, the subgoals that they follow, and what an operator can do."""
