"""Learning from what calls left behind: in the background, proved before it serves, watched while it serves."""
