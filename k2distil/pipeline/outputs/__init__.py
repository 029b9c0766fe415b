"""Outputs of the scripts, opened for people to look at."""
