"""The arguments of a study → a detached process that waits its turn behind audits, found again by the study's name.

<data>/jobs/.studies/<name>/   the files of a job
"""

from collections.abc import Sequence
from pathlib import Path

from clipmem_core.audits import queue
from clipmem_core.audits.jobs import Job, find_job_in, jobs_folder, start_job_in
from clipmem_core.audits.lock import is_held
from clipmem_core.studies.store import StudyFolder, study_folder
from clipmem_core.studies.typed import resume_arguments

STUDIES = ".studies"  # no audit's name begins with a dot


def start_study(arguments: Sequence[str], *, name: str) -> Job:
    """Start `python -m clipmem_core study <arguments>` detached, or return the job of that name if it runs.

    It waits until the audits started before it have ended.

    Args:
        arguments: what follows `study` on the command line.
        name: the study's.

    Raises:
        InputError: the name cannot be one.
        RuntimeError: the process could not be started.
    """
    return start_job_in(_folder(name), queue.queued(f"study {name}", ["study", *arguments]))


def resume_study(study: StudyFolder) -> Job | None:
    """Let a study go on, with the arms that were added to it, or return the job that works on it.

    A study at work looks for arms that were added meanwhile when it is through with the others: one that another
    process holds, perhaps in a terminal, is left to it.

    Returns:
        The job; None where another process holds the study.
    """
    return None if is_elsewhere(study.name) else start_study(resume_arguments(study), name=study.name)


def is_elsewhere(name: str) -> bool:
    """Tell whether a process works on a study that is not its job."""
    job = find_study_job(name)
    return not (job is not None and job.running) and is_held(study_folder(name).folder)


def find_study_job(name: str) -> Job | None:
    """Return the job last started for a study, running or not, or None.

    Raises:
        InputError: the name cannot be one.
    """
    return find_job_in(_folder(name))


def _folder(name: str) -> Path:
    return jobs_folder() / STUDIES / study_folder(name).name
