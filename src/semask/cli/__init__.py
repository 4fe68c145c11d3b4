"""The sub-commands: one file each, with a function main(arguments) that parses and one typed function that acts."""
