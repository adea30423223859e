"""Remote execution of tasks: `client` in the window, `remote_worker` on the other computer.

Messages are JSON and arrays, which both sides parse and check; nothing is a pickle.
"""
