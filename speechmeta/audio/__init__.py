"""Audio input: containers, telephony formats, resampling, and recordings read in blocks."""
