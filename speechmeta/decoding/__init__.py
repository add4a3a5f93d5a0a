"""Constrained decoding: the text a checkpoint writes, its grammar, and the loop that fills it."""
