"""Shortages of the machine during a run: disk, memory, network; never an error in the data."""

import errno

_MEMORY = "memory ran out: close other programs, or raise the limit (ulimit -v)"
_UNMOUNTED = "a network folder is gone: mount it again"
_SHORT = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "a file would be larger than is allowed: raise the limit (ulimit -f)",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine: close other programs",
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: "no more processes can be started: close other programs, or raise the limit (ulimit -u)",
    errno.EIO: "a disk or network folder failed: see that it works",
    errno.EHOSTUNREACH: "what is at a URL cannot be reached: see that the network works",
    **dict.fromkeys((errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN), _UNMOUNTED),
}


def shortage(error: BaseException) -> str:
    """Return what was short and what to do; empty for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return _SHORT.get(error.errno, "")
    if isinstance(error, (OSError, RuntimeError)):  # Pillow's and torch's
        said = str(error).lower()
        return _MEMORY if any(words in said for words in ("out of memory", "allocate memory", "memoryerror")) else ""
    return _MEMORY if isinstance(error, MemoryError) else ""
