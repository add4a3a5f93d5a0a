"""Readers of data sets and manifests, and the tables from their labels to ours."""
