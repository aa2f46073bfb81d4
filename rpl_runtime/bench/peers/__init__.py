"""Our own peers in a bench, each a program with the two verbs of load.py."""
