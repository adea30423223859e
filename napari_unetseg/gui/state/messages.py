"""Messages of the dock: errors, progress and results as sentences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import ValidationError

from napari_unetseg.core.errors import UserError
from napari_unetseg.core.score_text import score_text, score_title
from napari_unetseg.runtime.memory_errors import is_out_of_memory

if TYPE_CHECKING:
    from napari_unetseg.core.image_stack import Stack
    from napari_unetseg.core.metrics import Scores
    from napari_unetseg.jobs.live_predictor import MaskStarted
    from napari_unetseg.training.training_events import TrainingDone, TrainingPrepared

NO_IMAGE = "Open an image first: File ▸ Open File(s), or File ▸ Open Sample ▸ U-Net segmentation."
NO_LABELS = (
    "Nothing is labelled yet: press 'New layer' under Annotate, paint a few strokes on a "
    "structure and some with the background brush on the background."
)
MASK_BEGINS = "This mask gets better while the network learns; what you paint or correct stays."
MASK_DELETED = (
    "The prediction layer was deleted, so no mask is shown until training ends; press Stop "
    "to end it."
)
NO_ROOM = (
    "{} is nearly full, so the rest of this mask is not stored: free some space there, or write "
    "masks of large stacks to files (Many images…). What you painted is safe."
)
NO_ROOM_TO_PAINT = (
    "{} is nearly full, so you cannot paint on {} any more: free some space there. What you "
    "painted is safe."
)
ROOM_TO_PAINT = "There is space on the disk again: you can continue painting on {}."
TRAIN_NOW = "The labels have changed; press 'Train'."
BUSY = "A job is running already; wait until it ends, or press Stop."
FROZEN = "The mask on screen is frozen; choose Live, or press 'Predict', to see the new one."
NOTHING_BEFORE = (
    "There is no model from before the last training; choose another one from the list."
)
DIFFERENCE = (
    "Orange: no longer segmented; blue: newly segmented; yellow: another structure. Delete the "
    "layer when you no longer need it."
)
NOT_KEPT = "What you paint cannot be saved to disk, so save your layers yourself. {}"
LABELS_UNFIT = (
    "{} now has another shape than {}, so it no longer holds its labels. What was painted is "
    "kept in the project; restore the layer's old data and choose it again, or open the project "
    "again."
)
OTHER_IMAGE = (
    "{} has other pixels now, {}. What was painted on the old ones is kept and comes back with "
    "them; press 'New layer' to paint on the new ones."
)
SEVERAL_LABELS = "{} may be the labels of '{}': choose one under Labels, or press 'New layer'."
LABELS_OF_CLOSED = (
    "'{}' holds the labels of an image that was closed; choose it under Labels if it is of '{}' "
    "too, or press 'New layer'."
)
OTHER_UNITS = (
    "'{}' lies over '{}' but has another unit, and napari paints only on the layers with "
    "the smallest unit: press 'Align' to give it the image's unit."
)
OTHER_MASK = "{} does not lie over {}; choose its own image first."
ALIGNED = "{} now lies over {}, pixel on pixel, and follows it. Undo under Correct takes this back."
NOTHING_TO_ALIGN = "All layers lie over their image already."
MASK_TAKEN_OVER = (
    "The changes in the mask data are taken as corrections; the mask stays of type uint8."
)
MASK_IS_YOURS = (
    "The new data of {} do not fit {}, so the plugin no longer uses this layer. 'Predict' makes "
    "a new mask with all earlier corrections."
)
NOTHING_TO_REPORT = "Nothing was painted yet, so there is nothing to report."
KEPT_AGAIN = "Everything is saved to disk again."
NOT_WRITTEN = (
    "{} could not be written ({}); it is kept in memory and will be written again: free some "
    "space, or save the project elsewhere."
)
MISSING = "Not found: {}. Press 'Find image…', or open or drop the file: its labels are kept."
NOT_THAT_IMAGE = "{} does not have the pixels that were painted on; choose another file."
KEPT = "; the earlier model is kept"
EARLIER = "; the earlier model can be restored under Model"
SETTLED = 0.003
"""Changed fraction of a mask below which it is said to hardly change."""
PREDICTED = "Prediction shown; correct it and train again."
NOT_VALIDATED = (
    "Prediction shown, not validated: look at it, paint more strokes where it is wrong and train "
    "again."
)
PREDICTION_STOPPED = "Prediction was stopped; what was predicted so far is shown."
PREDICTION_DELETED = (
    "The prediction layer was deleted, so prediction stopped; press 'Predict' to start again."
)
NO_PREDICTION = "There is no prediction to show or hide yet; press 'Train' or 'Predict' first."
LOOKING = "Searching for the most useful place to label…"
HERE = {
    "region": "{}: the network is uncertain here; paint a few strokes where the mask is wrong.",
    "disagreement": "{}: here the last two models differ most.",
    "plane": "{}: nothing is labelled, corrected or accepted on this plane yet.",
}
NO_PLANE_LEFT = "Something is labelled, corrected or accepted on every plane of every image."
NO_OTHER_MODEL = (
    "There is only one model, so there is nothing to compare; train again, or load another one."
)
OTHER_CLASSES = (
    "The previous model has other structures, so the two cannot be compared; train again."
)
MATCH_SPACING = "Check 'Predict at the model's {} size' under Result."
PREDICT_AGAIN = "Press 'Predict' to see the mask at this pixel size."
TOO_FAR = "They are too far apart to resample: check the scale and the units of the layer."
SIZE_UNKNOWN = (
    "The pixel size is not known along every axis, so it cannot be matched: set the scale and "
    "the units of the layer."
)
NO_BATCH = "There is no image in the list: add files, a folder or open images."
NO_WORST = "Nothing was predicted yet: press 'Predict all' first."
NO_MODEL = "There is no model yet: press Train, or load one under Model."


def duration(seconds: float) -> str:
    """A duration such as ``42 s``, ``3:05`` or ``1:02:10``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def explain(error: BaseException, doing: str) -> str:
    """Describe an error in one sentence with the next step.

    Parameters
    ----------
    error
        The exception.
    doing
        The subject of the sentence, such as ``Training``.
    """
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ValidationError):
        return invalid(error)
    if is_out_of_memory(error):
        return (
            f"{doing} ran out of memory; close other programs, or choose a smaller patch or "
            "batch, or the CPU as device, under Advanced settings."
        )
    line = next(iter(str(error).strip().splitlines()), "") or "no further message"
    return (
        f"{doing} failed ({type(error).__name__}: {line[:160]}); your labels and the earlier "
        "model are unchanged; change a setting and try again."
    )


def not_written(what: str, error: BaseException) -> str:
    """Why ``what``, which is still in memory, could not be written, and what to do."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if is_out_of_memory(cause):
        reason = "there is not enough memory"
    elif isinstance(cause, OSError):
        reason = (cause.strerror or str(cause)).lower()
    else:
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0][:160]
    return NOT_WRITTEN.format(what, reason)


def invalid(error: ValidationError) -> str:
    """The first validation error of settings, as a sentence."""
    first = error.errors()[0]
    where = " ".join(str(p).replace("_", " ") for p in first["loc"])
    return f"{where}: {first['msg'].removeprefix('Value error, ')}.".removeprefix(": ").capitalize()


def describe_image(stack: Stack, dims: int) -> str:
    """What 2D planes or 3D volumes mean for this image."""
    n = stack.n_channels
    channels = f"{n} channels" if n > 1 else "1 channel"
    size = " × ".join(str(s) for s in stack.spatial_shape(dims))
    count = math.prod(stack.leading_shape(dims))
    what = "plane" if dims == 2 else "volume"
    if count == 1:
        return f"One {what} of {size} pixels, {channels}."
    return f"{count} {what}s of {size} pixels, {channels}; each {what} is segmented on its own."


def describe_prepared(event: TrainingPrepared) -> str:
    """Describe the data of a training that begins."""
    held = (
        f"{event.validation_voxels:,} held out in {event.blocks} blocks"
        if event.blocks
        else "too few to hold any out for a score"
    )
    return f"Training on {event.device} with {event.train_voxels:,} labelled pixels, {held}."


def describe_scores(scores: Scores | None) -> str:
    """The score, from what to what if it changed, with its interval; or why there is none."""
    if scores is None or math.isnan(scores.value):
        return (
            "Not validated: the held-out blocks contain too little of a structure or of the "
            "background; paint more of both, in several places, to get a score"
        )
    return f"{score_title(scores)} {score_text(scores)}"


def describe_mask(changed: float | None) -> str:
    """How the mask on screen changes while a training without a set end goes on."""
    if changed is None:
        return "training; stop whenever you like the mask"
    if changed < SETTLED:
        return "the mask hardly changes any more; paint where it is wrong, or stop"
    return f"you can use the mask now; {changed:.1%} of it changed in the last update"


def describe_shown(event: MaskStarted, *, earlier: bool) -> str:
    """A newer model is shown: its score, and where the earlier one is if there was one."""
    return f"{describe_scores(event.scores)}{KEPT if earlier else ''}."


def describe_training(event: TrainingDone, *, earlier: bool) -> str:
    """The result of a training, why it ended, and how long it took."""
    text = describe_scores(event.scores)
    if earlier:
        text += EARLIER
    return f"{text}. {event.reason.rstrip('.')} ({duration(event.seconds)})."
