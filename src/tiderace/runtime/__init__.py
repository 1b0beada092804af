"""Services of one process: threads, tasks, lifespan, drain and its control socket."""
