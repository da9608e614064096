"""The detached process that works on a study."""

from collections.abc import Sequence

from clipmem_core.audits.jobs import Job, Task, jobs_folder, queued
from clipmem_core.audits.store import is_locked
from clipmem_core.studies.arguments import resume_arguments
from clipmem_core.studies.store import StudyFolder, study_folder


def study_task(name: str, arguments: Sequence[str] = ()) -> Task:
    """Return the task of a study, which waits until the audits started before it have ended.

    Args:
        name: the study's.
        arguments: what follows `python -m clipmem_core study`; they do not matter where its job is only looked for.

    Raises:
        InputError: the name cannot be one.
    """
    folder = jobs_folder() / ".studies" / study_folder(name).name
    return Task(folder, queued(f"study {name}", ["study", *arguments]))


def resume_study(study: StudyFolder) -> Job | None:
    """Let a study go on, with the arms that were added to it, or return the job that works on it.

    A study at work looks for arms that were added meanwhile when it is through with the others: one that another
    process holds, perhaps in a terminal, is left to it.

    Returns:
        The job; None where another process holds the study.
    """
    return None if is_elsewhere(study.name) else study_task(study.name, resume_arguments(study)).start()


def is_elsewhere(name: str) -> bool:
    """Tell whether a process works on a study that is not its job."""
    job = study_task(name).find()
    return not (job is not None and job.running) and is_locked(study_folder(name).folder)
