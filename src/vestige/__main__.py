"""`python -m vestige`: the same as the `vestige` command."""

from vestige.cli import main

if __name__ == "__main__":
    main()
