"""Showers for given incident energies: from a trained model or from the parametric generator."""
