"""What the runtime costs, beside other transports."""
