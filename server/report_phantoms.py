"""The part of a run's page with pictures: the model on invented patients, and why no patient is ever shown there."""

from html import escape

from consortium.plan import Plan
from privacy.report_html import code, paragraph
from server.phantoms import Trial, Untried, shown_task
from tasks.errors import TaskError
from tasks.imaging.task import ImageTask
from tasks.registry import find_task

TITLE = "Phantoms: the model on invented patients"
INVENTED = (
    "Every head below is invented: a program drew it with its lesions, and measured it with scanners of its own. This shows that "
    "the machinery works, and how the model fares on scanners it was not trained on. It is no clinical evidence. No picture of a "
    "patient is in this page."
)
NOT_TRIED = (
    "The model was not tried on invented patients yet. ",
    code("wardround-lead report RUN"),
    " does so, and shows slices with predicted and true outlines.",
)
SECURE = (
    "The figures above are of all hospitals together. No figure of one hospital's patients ever reaches the hub: each hospital "
    "adds its histogram under masks, and only the sum can be opened. What it has by scanner, lesion load and size of lesions, and "
    "slices of its patients, a hospital sees in its own page, ",
    code("wardround-site segment MODEL --out FOLDER --html"),
    ", which stays there.",
)


def images_note(plan: Plan) -> str:
    """Where figures of single hospitals are, for runs of tasks on images; "" for others."""
    try:
        on_images = isinstance(find_task(plan.task.name), ImageTask)
    except TaskError:
        return ""
    return str(paragraph(*SECURE, class_="note")) if on_images else ""


def phantom_section(plan: Plan, trial: Trial | Untried | None) -> str:
    """The section; "" for a task without invented patients."""
    if (task := shown_task(plan)) is None:
        return ""
    head = f'<h2 id="phantoms">{TITLE}</h2>'
    if trial is None:
        return head + paragraph(*NOT_TRIED)
    if isinstance(trial, Untried):
        return head + paragraph(f"The model could not be tried on invented patients: {trial.why}")
    from server.report_trial import trial_html  # here: nibabel is for those who try models for images

    return f'{head}<p class="invented">{escape(INVENTED)}</p>{trial_html(trial, task.cuts_ml)}'


def trial_words(trial: Trial | Untried) -> str:
    """What came of it, on one line."""
    if isinstance(trial, Untried):
        return f"not tried: {trial.why}"
    from server.report_trial import mean_dice

    return f"{len(trial.sessions)} sessions, mean Dice {mean_dice(trial)}"
