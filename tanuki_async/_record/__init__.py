"""What calls leave behind: remembered at once, written in the background, read as data sets."""
