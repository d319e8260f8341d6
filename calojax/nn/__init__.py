"""Neural network layers, which know shapes but no physics, geometry or data."""
