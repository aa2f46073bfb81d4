"""Shifts: goal after goal without a reset, and a policy that learns from them in rounds."""
