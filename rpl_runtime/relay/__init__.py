"""The relay loop, and the robots of one stream that it runs for."""
