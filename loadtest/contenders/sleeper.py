"""Takes 5 ms for every call, and any number at once: a function whose capacity is its slots."""

import asyncio


async def handle(input):
    await asyncio.sleep(0.005)
    return input
