"""Who may call a server and how much, and how a client identifies itself."""
