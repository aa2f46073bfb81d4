"""`rpl evaluate` and `rpl bench`, the commands that measure."""
