"""Codes and losses for the toolkits of others; none of them is imported before it is used."""
