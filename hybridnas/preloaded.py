"""What worker processes are forked off has imported this: all that a worker needs, and nothing was done but that."""

from hybridnas.collecting import importing

with importing():
    import hybridnas.working  # noqa: F401
