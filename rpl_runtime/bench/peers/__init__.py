"""What a bench measures side by side, each a program of the two verbs that load.py asks for."""
