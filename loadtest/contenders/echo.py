"""Gives back what it gets, from Python."""


def handle(input):
    return input
