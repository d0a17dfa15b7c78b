"""Write a bundle: files, report, model card."""
