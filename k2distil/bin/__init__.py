"""The command line of all commands (main.py)."""
