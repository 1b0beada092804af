"""Topics from the server's side: called by the project, at a commit, and over HTTP."""
