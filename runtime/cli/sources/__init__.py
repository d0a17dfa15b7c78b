"""Sources as attri-run takes them: options, tasks, checks, and the pipeline that they ask for."""
