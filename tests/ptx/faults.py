"""What a kernel can do wrong."""


class Fault(Exception):
    """A kernel did what hardware would not forgive, or not always: what, which block and thread, which instruction."""


class OutOfBounds(Fault):
    """An access to memory that is not the launch's, or that lies beyond what it was given."""


class Misaligned(Fault):
    """An access at an address that is no multiple of its size."""


class Race(Fault):
    """Two threads touch a word, at least one of them writes, and nothing orders the two."""


class Divergence(Fault):
    """A barrier, or an instruction for several threads of a warp, that some of the threads it names never reach."""


class Uninitialised(Fault):
    """A read of shared memory that nobody wrote."""


class Unsupported(Fault):
    """An instruction that is not interpreted here, or that this project's kernels have no business to use."""
