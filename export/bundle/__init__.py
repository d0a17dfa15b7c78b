"""Bundle writing: files, report, model card."""
