"""A process that tokenizes: `python -m tgsbench.workload`, started by `tgsbench.workload.workers`."""

from tgsbench.workload.workers import main

if __name__ == "__main__":
    main()
