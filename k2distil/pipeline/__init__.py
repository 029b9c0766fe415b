"""One module per command: config in, summary out. Joins the parts, which do not know each other."""
