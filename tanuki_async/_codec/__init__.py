"""Python values to prompt text and back. Pure: no await, no I/O, no clock."""
