"""The command line: `app.main` runs a command of `commands.COMMANDS`, whose function reads options and prints."""
