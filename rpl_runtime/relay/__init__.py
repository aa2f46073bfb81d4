"""The relay loop and the session of robots that a stream runs on it."""
