"""Console script ``kubectl-bem``, which kubectl finds as ``kubectl bem``."""

import sys

from tools.kubectl_bem.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
