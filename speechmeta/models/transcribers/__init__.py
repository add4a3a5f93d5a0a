"""Other models' transcripts beside our speech activity, labels and word times."""
