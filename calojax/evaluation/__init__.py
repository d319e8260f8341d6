"""How well generated showers agree with reference showers: the CaloChallenge's whole evaluation."""
