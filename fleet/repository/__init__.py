"""The repository: a folder of signed metadata and files that any web server or memory stick can hold."""
