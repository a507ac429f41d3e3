"""The primary of what is mirrored: answers with what it was sent, by hash."""

import hashlib
import json
import socket

import uvicorn


async def app(scope, receive, send):
    digest, size_bytes, more = hashlib.sha256(), 0, scope["type"] == "http"
    while more:
        message = await receive()
        digest.update(message.get("body", b""))
        size_bytes += len(message.get("body", b""))
        more = message.get("more_body", False)
    answer = json.dumps({"sha256": digest.hexdigest(), "bytes": size_bytes}).encode()
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    print(listening.getsockname()[1], flush=True)  # noqa: T201 - whoever started it reads
    config = uvicorn.Config(app, lifespan="off", log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])
