"""Starting the server and its processes, and getting a process ready."""
