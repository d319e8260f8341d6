"""calojax: fast generative simulation of calorimeter showers in JAX."""

__version__ = "0.1.0"
