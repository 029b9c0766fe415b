"""What commands do, config in, summary out: joins the parts, which do not know each other."""
