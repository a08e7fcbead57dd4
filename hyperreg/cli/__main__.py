"""`python -m hyperreg.cli` is `hyperreg`."""

from hyperreg.cli import main

if __name__ == "__main__":
    main()
