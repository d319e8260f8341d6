"""Neural building blocks: they see shapes, never geometries or data."""
