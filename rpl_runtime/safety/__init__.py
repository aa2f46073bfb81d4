"""The limits of a robot, and the filter that keeps every commanded motion within them."""
