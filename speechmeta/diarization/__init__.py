"""Who speaks on one channel: speaker embeddings and their clustering."""
