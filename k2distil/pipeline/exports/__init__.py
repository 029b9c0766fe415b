"""Outputs for the toolkits of others."""
