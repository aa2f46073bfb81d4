"""Recordings of runs: MCAP logs, their replay, Minari data sets."""
