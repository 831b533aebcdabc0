"""What becomes of memory that a training step frees."""

import ctypes
import platform

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep what it frees, up to the most that it ever held at once, for whatever comes next.

    A step frees its activations and the next asks for as much again. In between the GNU C library gives large blocks
    back to the system, which then has to clear every page of them anew. Under another library nothing is changed.

    References:
        mallopt(3).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, NEVER)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
