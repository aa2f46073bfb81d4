"""The systems of Relay Policy Learning as rows of data, run and compared."""
