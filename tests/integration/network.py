"""What a network does to the connections of a pair of nodes, done by a TCP proxy between the two.

network = Network()
with Sandbox(directory, via=network.via) as mesh:
    async with network:
        network.between("mac", "agni").cut()
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Fuse = Callable[[], int]

_CHUNK = 16 * 1024
_SLICES_A_SECOND = 50
_WINDOW = 64 * 1024
"""Bytes that may be under way unseen: a slow link is felt by who sends, not swallowed by the kernel's buffers."""


class Proxy:
    """One pair's network, between the dialler and the node that it dials at `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.rate: int | None = None
        """Bits a second each way; None: as fast as it goes."""
        self.refusing = False
        """Reset new connections as they come."""
        self.connections = 0
        self.refused = 0
        self.resets = 0
        """How many connections ran out of their fuse."""
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._target = target
        self._listening = _socket()
        self._listening.bind(("127.0.0.1", 0))
        self._fuse: Fuse | None = None
        self._passages: set[_Passage] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    def cut(self) -> None:
        """Nothing passes from here on, not even an end: connections look open from both sides."""
        self.flowing.clear()

    def reset_after(self, fuse: Fuse | None) -> None:
        """Every connection, those that are open too, carries as many bytes as `fuse` says and is reset."""
        self._fuse = fuse
        for passage in self._passages:
            passage.left = fuse() if fuse is not None else None

    def heal(self) -> None:
        """All as in the beginning. What was held back passes, as retransmission would bring it."""
        self.rate = None
        self.refusing = False
        self.reset_after(None)
        self.flowing.set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._listening)

    async def stop(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: for a coroutine, asyncio 3.11 logs a traceback when it is cancelled.
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            self.refused += 1
            _reset(writer)
            return
        writers = [writer]
        passage = _Passage(self)
        try:
            await self.flowing.wait()
            from_target, to_target = await _connect(self._target)
            writers.append(to_target)
            self.connections += 1
            self._passages.add(passage)
            passage.left = self._fuse() if self._fuse is not None else None
            await passage.carry((reader, to_target), (from_target, writer))
            self.resets += passage.blown
        except OSError:
            passage.left = 0  # nobody listens there
        finally:
            self._passages.discard(passage)
            for each in writers:
                _reset(each) if passage.blown else each.close()


class _Passage:
    """One connection, for as long as both of its sides live. `left` is what it may still carry."""

    def __init__(self, proxy: Proxy) -> None:
        self.left: int | None = None
        self._proxy = proxy

    @property
    def blown(self) -> bool:
        return self.left == 0

    async def carry(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        pumps = [asyncio.create_task(self._pump(*way)) for way in ways]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        free = loop.time()
        with contextlib.suppress(OSError):
            while True:
                rate = self._proxy.rate
                data = await _read(reader, _CHUNK if rate is None else min(_CHUNK, rate // 8 // _SLICES_A_SECOND))
                if rate is not None:
                    free = max(free, loop.time()) + len(data) * 8 / rate
                    await asyncio.sleep(free - loop.time())
                await self._proxy.flowing.wait()
                if self.left is not None:
                    data = data[: self.left]
                    self.left -= len(data)
                if not data:
                    return
                writer.write(data)
                await writer.drain()


async def _read(reader: asyncio.StreamReader, most: int) -> bytes:
    """What comes next; nothing at the end, whichever end it was: how that is passed on waits for its turn, too."""
    try:
        return await reader.read(most)
    except OSError:
        return b""


async def _connect(target: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock = _socket()
    try:
        await asyncio.get_running_loop().sock_connect(sock, target)
        return await asyncio.open_connection(sock=sock)
    except BaseException:
        sock.close()
        raise


class Network:
    """A proxy between each pair of nodes."""

    def __init__(self) -> None:
        self._proxies: dict[frozenset[str], Proxy] = {}

    @property
    def proxies(self) -> list[Proxy]:
        return list(self._proxies.values())

    def via(self, dialler: str, dialled: str, url: str) -> str:
        """For `Sandbox`: let `dialler` dial a proxy."""
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        proxy = self._proxies[frozenset((dialler, dialled))] = Proxy((address.hostname, address.port))
        return address._replace(netloc=f"{address.hostname}:{proxy.port}").geturl()

    def between(self, one: str, other: str) -> Proxy:
        return self._proxies[frozenset((one, other))]

    async def __aenter__(self) -> Self:
        for proxy in self.proxies:
            await proxy.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self.proxies:
            await proxy.stop()


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    sock.setblocking(False)
    return sock


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST, not FIN: lingering for no time (socket(7))."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
