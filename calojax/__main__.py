"""``python -m calojax`` is ``calojax``."""

from calojax.cli import main

if __name__ == "__main__":
    main()
