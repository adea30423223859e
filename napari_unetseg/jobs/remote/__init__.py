"""A task of the window on another computer: `client` here, `worker` there, JSON and arrays between.

What travels is bytes that both sides read themselves: nothing of it is a pickle.
"""
