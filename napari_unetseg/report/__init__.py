"""Reports of trainings and projects: figures, tables and pages."""
