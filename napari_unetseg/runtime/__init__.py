"""Devices, processor cores, memory and processes."""
