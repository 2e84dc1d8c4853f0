"""``python -m transxnet`` is the command ``transxnet``."""

from transxnet.cli.main import main

if __name__ == "__main__":
    main()
