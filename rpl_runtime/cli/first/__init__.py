"""The commands that a newcomer meets first: demo, doctor, new, docs."""
