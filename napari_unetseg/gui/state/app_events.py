"""Signals of a window that several features listen to."""

from __future__ import annotations

from psygnal import Signal


class AppEvents:
    """The bus of a window: whoever does something says so here and knows no listener.

    Listeners are called in the GUI thread, in the order in which they connected.
    """

    annotation_changed = Signal(object, object)
    """An image and what changed of its annotations."""
    annotations_replaced = Signal(object)
    """The strokes of an image are those of another layer now, or of another array."""
    label_kind_changed = Signal(object)
    """The numbers in an image's labels mean something else now."""
    labels_touched = Signal()
    """Labels, corrections or accepted regions may have changed; many times a second."""
    labels_changed = Signal()
    """The same, a few times a second at most."""
    image_removed = Signal(object)
    """An image is gone, or its layer holds another one now."""
    pixels_changed = Signal(object)
    """An image layer has other pixels."""

    job_started = Signal(object)
    """A job of this kind is about to run."""
    job_event = Signal(object, object)
    """The kind of a job, and what it said."""
    job_ended = Signal(object)
    """A job of this kind ended, however it did."""
    job_failed = Signal(object, object)
    """The kind of a job, and its error; the user knows already."""

    computer_chosen = Signal()
    """Another computer is to train and predict, or the same one with another key."""
    tick = Signal(float)
    """Called again and again with the time in seconds, of `time.perf_counter`."""
    closing = Signal()
    """The window closes: nothing is begun any more, and what runs stops."""
    closed = Signal()
    """Nothing runs any more: listen to the viewer no longer."""
