"""Many tasks: in this process, in several of this machine, or by the machines of a Ray cluster."""
