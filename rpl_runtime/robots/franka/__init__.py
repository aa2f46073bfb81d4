"""A Franka arm with its hand, a Panda or an FR3, real or simulated."""
