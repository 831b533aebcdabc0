"""The allocator's treatment of freed memory."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Make this process keep freed memory, up to its peak, for later allocations.

    A training step frees its activations, and the next step allocates as much again. By default the GNU C library
    returns large blocks to the system in between, which then clears every page again. Other C libraries are unchanged.

    References:
        mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, NEVER)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
