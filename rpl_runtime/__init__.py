"""Relay policy runtime: a bundle in, motion out. Needs neither torch nor mujoco."""
