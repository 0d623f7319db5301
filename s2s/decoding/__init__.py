"""Decoding of whole files, resumable and in several processes."""
