"""Messages of rpl.v1 to values and back."""
