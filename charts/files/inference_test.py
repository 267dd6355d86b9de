"""What ``helm test`` runs in the cluster: a real answer by HTTP and by gRPC, and feedback kept."""

import json
import os
import ssl
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
from bemfleet.router.v1 import router_pb2 as pb
from bemfleet.router.v1 import router_pb2_grpc as rpc

QUESTION = "What is the capital of France?"


def trusted() -> ssl.SSLContext:
    """Return whom the gateway's certificate may come from: its own authority where there is one."""
    authority = Path("/run/tls/ca.crt")
    return ssl.create_default_context(cafile=authority if authority.exists() else None)


def ask(path: str, body: dict[str, Any] | None, limit_s: float) -> dict[str, Any]:
    """Send JSON to the gateway, or get without a body, and return its JSON.

    Raises:
        urllib.error.URLError: It refuses or does not answer within ``limit_s`` seconds.
    """
    request = urllib.request.Request(  # noqa: S310 - always the gateway
        os.environ["GATEWAY_URL"] + path,
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=limit_s, context=trusted()) as answer:  # noqa: S310
        found: dict[str, Any] = json.load(answer)
    return found


def main() -> int:
    """Return 0 if the fleet answers as it should."""
    limit_s = float(os.environ["LIMIT_S"])
    model = ask("/v1/models", None, limit_s)["data"][0]["id"]
    chat = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": 16,
    }
    answer = ask("/v1/chat/completions", chat, limit_s)
    text = answer["choices"][0]["message"]["content"]
    print("gateway:", text)
    with grpc.insecure_channel(os.environ["ROUTER_ADDRESS"]) as channel:
        said = pb.ChatMessage(role="user", content=QUESTION)
        greedy = pb.Sampling(temperature=0)
        asked = pb.GenerateRequest(
            model=model, chat=pb.ChatPrompt(messages=[said]), sampling=greedy, max_tokens=16
        )
        router = rpc.RouterServiceStub(channel)
        direct = router.Complete(pb.CompleteRequest(request=asked), timeout=limit_s)
    print("router:", direct.text)
    kept = ask("/v1/feedback", {"completion_id": answer["id"], "rating": "up"}, limit_s)
    print("feedback:", kept["id"])
    return 0 if text.strip() and direct.text.strip() and kept["id"] else 1


if __name__ == "__main__":
    sys.exit(main())
