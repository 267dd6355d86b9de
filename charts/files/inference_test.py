"""Helm test: a completion by HTTP, a probe of every mission by gRPC, and stored feedback.

Network policies admit a new pod moments after its start: what is refused till then is tried again.
"""

import json
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grpc
from bemfleet.mission.v1 import mission_pb2 as pb
from bemfleet.mission.v1 import mission_pb2_grpc as rpc

PROMPT = "What is the capital of France?"
MAX_TOKENS = 16
AUTHORIZATION = f"Bearer {os.environ['API_KEY']}"


def tls_context() -> ssl.SSLContext:
    """Return a context that trusts the gateway's own authority if it has one."""
    authority = Path("/run/tls/ca.crt")
    return ssl.create_default_context(cafile=authority if authority.exists() else None)


def call_gateway(path: str, body: dict[str, Any] | None, timeout_s: float) -> dict[str, Any]:
    """Send JSON to the gateway, or get without a body, and return the JSON response.

    A connection that does not open is tried again within the time.

    Raises:
        urllib.error.URLError: The gateway rejects the request or does not respond in time.
    """
    request = urllib.request.Request(  # noqa: S310 - always the gateway
        os.environ["GATEWAY_URL"] + path,
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json", "Authorization": AUTHORIZATION},
    )
    limit = time.monotonic() + timeout_s
    while True:
        try:
            with urllib.request.urlopen(  # noqa: S310
                request, timeout=timeout_s, context=tls_context()
            ) as response:
                content: dict[str, Any] = json.load(response)
        except urllib.error.URLError as err:
            unopened = isinstance(err.reason, ConnectionRefusedError | socket.gaierror)
            if not unopened or time.monotonic() > limit:
                raise
            time.sleep(0.5)  # policies take effect in another process: there is no event
        else:
            return content


def open_channel(address: str) -> grpc.Channel:
    """Open a channel, with the clients' certificate where pods ask for one."""
    if "TLS_FOLDER" not in os.environ:
        return grpc.insecure_channel(address)
    folder = Path(os.environ["TLS_FOLDER"])
    files = ((folder / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt"))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*files))


def probe_mission(address: str, timeout_s: float) -> str:
    """Return the answer of the mission at ``address`` to the prompt; empty if it has none.

    Raises:
        grpc.RpcError: The mission does not answer in time.
    """
    with open_channel(address) as channel:
        mission = rpc.MissionServiceStub(channel)
        metadata = (("authorization", AUTHORIZATION),)
        name = mission.Describe(
            pb.DescribeRequest(), timeout=timeout_s, metadata=metadata, wait_for_ready=True
        ).name
        request = pb.ProbeRequest(prompt=PROMPT, max_tokens=MAX_TOKENS)
        text: str = mission.Probe(request, timeout=timeout_s, metadata=metadata).text
    print(f"{name}: {text}")
    return text.strip()


def main() -> int:
    """Return 0 if the gateway and every mission answer and feedback is stored."""
    timeout_s = float(os.environ["LIMIT_S"])
    model = call_gateway("/v1/models", None, timeout_s)["data"][0]["id"]
    chat = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    completion = call_gateway("/v1/chat/completions", chat, timeout_s)
    text = completion["choices"][0]["message"]["content"]
    print("gateway:", text)
    addresses = [a for a in os.environ["MISSION_ADDRESSES"].split(",") if a]
    answers = [probe_mission(address, timeout_s) for address in addresses]
    feedback = {"completion_id": completion["id"], "rating": "up"}
    stored = call_gateway("/v1/feedback", feedback, timeout_s)
    print("feedback:", stored["id"])
    return 0 if text.strip() and all(answers) and stored["id"] else 1


if __name__ == "__main__":
    sys.exit(main())
