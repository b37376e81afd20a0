"""``python -m spamo_cache``: the command line without its script."""

from spamo_cache.cli.main import main

if __name__ == "__main__":
    main()
