"""Numbers and energies as text, rounded to the precision that their error allows."""

import math

from calojax.io.findings import energy_text

# Larger numbers are written with an exponent.
_LARGE = 1e6


def rounded(value: float, error: float | None = None) -> str:
    """A value and its error, if there is one, to two digits of the error: '0.0116 ± 0.0021'.

    No number has more than four significant digits; '–' stands for numbers that are not finite.
    """
    if not math.isfinite(value):
        return "–"
    if error is None or not math.isfinite(error) or error <= 0:
        return _trimmed(f"{value:.4g}")
    digits = 1 - math.floor(math.log10(error))
    # 0.0996 rounds up to 0.10: one digit fewer.
    if round(error, digits) >= 10.0 ** (2 - digits):
        digits -= 1
    largest = max(abs(value), error)
    if largest >= _LARGE or digits > 7 or digits + math.floor(math.log10(largest)) > 3:
        return f"{_trimmed(f'{value:.4g}')} ± {_trimmed(f'{error:.2g}')}"
    if digits <= 0:
        return f"{round(value, digits):,.0f} ± {round(error, digits):,.0f}"
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def energies(low: float, high: float) -> str:
    """A range of energies in MeV: '1 GeV – 10 GeV'."""
    return f"{energy_text(low)} – {energy_text(high)}"


def _trimmed(text: str) -> str:
    """Digits instead of an exponent below a million: '1.234e+04' becomes '12,340'."""
    if "e+" in text and abs(float(text)) < _LARGE:
        return f"{float(text):,.0f}"
    return text
