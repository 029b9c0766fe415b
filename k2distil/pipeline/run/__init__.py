"""What all commands do beside their work: lists, progress, processes, summaries."""
