"""The command line: parse, call, print; one small file per command group."""
