"""`python -m anser`: the command line."""

from anser.cli import main

if __name__ == "__main__":
    main()
