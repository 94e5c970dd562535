"""Its own limits and rights."""

import os
import resource

from .known import Targets, attempt, call, nothing


@attempt()
def _raise_a_limit(_: Targets) -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
    return True


@attempt()
def _more_processors(_: Targets) -> object:
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return True


@attempt(root=True)
def _real_time(_: Targets) -> object:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return True


@attempt(root=True)
def _be_root(_: Targets) -> object:
    os.setresuid(0, 0, 0)
    return True


@attempt(root=True)
def _join_groups(_: Targets) -> object:
    os.setgroups([0])
    return True


@attempt(root=True)
def _memory_that_is_not_swapped(_: Targets) -> object:
    return call(151, 1) + 1


@attempt()
def _find_open_descriptors(targets: Targets) -> object:
    found = [number for number in range(3, 1024) if _is_open(number)]
    return found if len(found) > targets["descriptors_max"] else nothing()


@attempt()
def _find_a_secret_in_the_environment(_: Targets) -> object:
    return os.environ["MALBOX_SECRET"]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
