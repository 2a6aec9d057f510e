"""Returns its input, from Python."""


def handle(input):
    return input
