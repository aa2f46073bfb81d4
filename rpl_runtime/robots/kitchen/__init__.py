"""The kitchen's robot: its task, and the limits and hand of a real arm."""
