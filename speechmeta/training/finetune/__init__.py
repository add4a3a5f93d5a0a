"""Fine-tuning of a checkpoint on one's own manifests, by LoRA: `speechmeta train`."""
