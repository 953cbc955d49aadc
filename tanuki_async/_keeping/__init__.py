"""The care of what is kept: read from elsewhere, carried over, checked, mended, forgotten, written for others."""
