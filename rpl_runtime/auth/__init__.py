"""Who may call a server, how much, and how a client shows who it is."""
