"""Images and their labels, as patches to train on."""
