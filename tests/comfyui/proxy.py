"""A reverse proxy as people put before ComfyUI: the server under a path, websocket included."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def behind_proxy(port: int, path: str) -> Iterator[str]:
    """Address under `path` through which the server at `port` of this machine is reached. Whatever
    is asked for outside of the path is not found.
    """

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            method, asked, version = self.rfile.readline().decode("latin-1").split()
            headers = []
            while (line := self.rfile.readline()).strip():
                headers.append(line)
            if asked == path:
                self.answer("301 Moved Permanently", f"Location: {path}/\r\n")
            elif not asked.startswith(f"{path}/"):
                self.answer("404 Not Found")
            else:
                is_upgrade = any(line.lower().startswith(b"upgrade:") for line in headers)
                if not is_upgrade:  # one request of a connection: what follows is only its body
                    headers = [h for h in headers if not h.lower().startswith(b"connection:")]
                    headers.append(b"Connection: close\r\n")
                first = f"{method} {asked.removeprefix(path)} {version}\r\n".encode("latin-1")
                with socket.create_connection(("127.0.0.1", port)) as server:
                    server.sendall(first + b"".join(headers) + b"\r\n")
                    threading.Thread(target=self.pass_on, args=(server,), daemon=True).start()
                    with suppress(OSError):
                        while data := server.recv(1 << 16):
                            self.wfile.write(data)

        def pass_on(self, server: socket.socket) -> None:
            with suppress(OSError, ValueError):  # the other side is through
                while data := self.rfile.read1(1 << 16):
                    server.sendall(data)

        def answer(self, status: str, header: str = "") -> None:
            text = f"HTTP/1.1 {status}\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n"
            self.wfile.write(text.encode("latin-1"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as proxy:
        proxy.daemon_threads = True
        proxy.block_on_close = False  # a browser holds connections open
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}{path}"
        finally:
            proxy.shutdown()
