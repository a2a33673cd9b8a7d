"""What users edit: one Jinja template a file, named role_purpose.jinja."""
