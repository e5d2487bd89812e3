"""`python -m tgsbench` is `tgsbench`."""

from tgsbench.cli.main import main

main()
