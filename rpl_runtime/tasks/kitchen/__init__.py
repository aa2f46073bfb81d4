"""The kitchen: the table of its elements, and (with the `sim` extra) its simulator."""
