"""A handler that takes 5 ms for each call and runs any number of calls at once, so its slots limit its capacity."""

import asyncio


async def handle(input):
    await asyncio.sleep(0.005)
    return input
