"""What users may ask for: every option declared once, with its type, range, default and help.

The command line, configuration files, the JSON of jobs and fields of requests follow from the declarations.
"""
