"""Work shared out over processes, here or in a cluster; what comes of it is as in one process."""

from residency.sharing.workers import Sharing

__all__ = ["Sharing"]
