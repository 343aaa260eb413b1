"""``python -m a2mim``, and ``torchrun -m a2mim``."""

from a2mim.cli import main

if __name__ == "__main__":
    main()
