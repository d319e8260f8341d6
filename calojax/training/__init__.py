"""Training: batches, steps, metrics and runs; models are known only as `Model`."""
