"""Relay policy training: demonstrations in, bundle out. Needs the `train` extra."""
