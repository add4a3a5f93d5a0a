"""Measures: word errors, label scores, diarization error, intervals."""
