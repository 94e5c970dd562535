"""The command line: what a person or a script says to Malbox. It speaks HTTP only, besides starting and stopping."""
