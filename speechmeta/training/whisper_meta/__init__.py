"""Fine-tuning of the bundled `whisper_meta` checkpoint."""
