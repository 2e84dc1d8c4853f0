"""One module a subcommand: parsing and printing, no work."""
