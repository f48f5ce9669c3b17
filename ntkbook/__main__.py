"""``python -m ntkbook``: the command of :mod:`ntkbook.cli`."""

from ntkbook.cli import main

if __name__ == "__main__":
    main()
