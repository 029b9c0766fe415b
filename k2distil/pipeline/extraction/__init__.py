"""Utterances -> teacher -> values -> an h5, part by part."""
