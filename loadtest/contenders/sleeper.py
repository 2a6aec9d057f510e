"""A handler that takes 5 ms for each call and runs any number of calls at once, so that only the
slots of the function limit the capacity."""

import asyncio


async def handle(input):
    await asyncio.sleep(0.005)
    return input
