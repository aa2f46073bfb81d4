"""Runs kept: MCAP logs, their replay, Minari data sets."""
