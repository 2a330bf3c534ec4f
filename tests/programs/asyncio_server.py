# An asyncio loop goes on with its timers, its tasks and its listener, which answers a fresh client.
# tags: live

import asyncio

from check import Check, expect, program

TICK_S = 0.01


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"ping\n")
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


async def tick(ticks: list[float]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        expect(loop.time() >= due - 0.002, True)
        ticks.append(loop.time())


async def run(check: Check) -> None:
    ticks: list[float] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    ticking = asyncio.create_task(tick(ticks))
    far = asyncio.get_running_loop().call_later(3600, ticking.cancel)
    check.ready()
    while not check.go():  # noqa: ASYNC110 - others write the file
        await asyncio.sleep(TICK_S)
    expect(await asyncio.wait_for(ask(port), 20), b"PING\n")
    seen = len(ticks)
    while len(ticks) < seen + 2:  # noqa: ASYNC110 - the ticking task stays as it is
        await asyncio.sleep(TICK_S)
    expect(await asyncio.to_thread(lambda: 6 * 7), 42)  # woken from another thread
    expect(ticks, sorted(ticks))
    expect(ticking.done(), False)
    far.cancel()
    ticking.cancel()
    server.close()
    await server.wait_closed()


with program() as check:
    asyncio.run(run(check))
