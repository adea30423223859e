"""Signals of a window that several features listen to."""

from __future__ import annotations

from psygnal import Signal


class AppEvents:
    """The event bus of a window; senders do not know the listeners.

    Listeners are called in the GUI thread, in the order in which they connected.
    """

    annotation_changed = Signal(object, object)
    """An image and the change of its annotations."""
    annotations_replaced = Signal(object)
    """The strokes of an image come from another layer or array now."""
    label_kind_changed = Signal(object)
    """The kind of an image's labels changed."""
    labels_touched = Signal()
    """Labels, corrections or accepted regions may have changed; emitted many times a second."""
    labels_changed = Signal()
    """The same, at most a few times a second."""
    image_removed = Signal(object)
    """An image was removed, or its layer holds another image now."""
    pixels_changed = Signal(object)
    """The pixels of an image layer were replaced."""

    job_started = Signal(object)
    """A job of this kind is about to run."""
    job_event = Signal(object, object)
    """The kind of a job, and its event."""
    job_ended = Signal(object)
    """A job of this kind ended, with or without an error."""
    job_failed = Signal(object, object)
    """The kind of a job, and its error, which was shown to the user."""

    computer_chosen = Signal()
    """The remote computer or its key was changed."""
    tick = Signal(float)
    """Emitted periodically with the time in seconds, of `time.perf_counter`."""
    closing = Signal()
    """The window is closing: nothing is started any more, and running work stops."""
    closed = Signal()
    """Nothing runs any more: disconnect from the viewer."""
