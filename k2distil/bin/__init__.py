"""The command line: a module per script, and all commands in main.py."""
