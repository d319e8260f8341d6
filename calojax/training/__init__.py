"""Training: batches, optimiser, step, loop and metrics; knows models only as `Model`."""
