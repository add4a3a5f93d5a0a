"""Training of SpeechLLM checkpoints: manifests, audio cache, augmentation, the loop."""
