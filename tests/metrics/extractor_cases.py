"""Stand-ins for weights that a test cannot have, and a server that misbehaves as asked."""

import hashlib
import http.server
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopv.metrics.weights import WeightFile

VARIABLE = "AUTOPV_TEST_WEIGHTS"
LIVE_FEATURES = 24


class StandInInception(nn.Module):
    """The interface of the official FID network around a small one; all but 24 of its 2048 features are 0."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 8, stride=8),
            nn.BatchNorm2d(16),
            nn.Softplus(),
            nn.Conv2d(16, LIVE_FEATURES, 3, stride=2),
            nn.BatchNorm2d(LIVE_FEATURES),
            # Not ReLU: a feature that is 0 for all images makes a covariance singular.
            nn.Softplus(),
            nn.AdaptiveAvgPool2d(1),
            nn.ConstantPad3d((0, 0, 0, 0, 0, 2048 - LIVE_FEATURES), 0.0),
        )
        generator = torch.Generator().manual_seed(0)
        for name, value in self.state_dict().items():
            if value.is_floating_point():
                draw = torch.rand(value.shape, generator=generator)
                value.copy_(0.5 + draw if "running" in name or value.ndim == 1 else (draw - 0.5) / 4)

    def forward(self, img: Tensor, return_features: bool = False) -> Tensor:
        img = F.interpolate(img, size=(299, 299), mode="bilinear", align_corners=False)
        features = self.layers((img - 128) / 128).flatten(1)
        return features if return_features else features[:, :1]


def save_torchscript(network: nn.Module, path: Path) -> Path:
    """The path, at which the network now is as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.simplefilter("ignore", category=DeprecationWarning)
        torch.jit.save(torch.jit.script(network.eval()), path)
    return path


def weight_file(content: bytes, *, url: str = "http://127.0.0.1:9/none") -> WeightFile:
    """What describes the content as a weight file."""
    sha256 = hashlib.sha256(content).hexdigest()
    return WeightFile(file_name="stand-in.pt", url=url, size_bytes=len(content), sha256=sha256, variable=VARIABLE)


@dataclass
class Server:
    """What the server sends, how, and what it was asked for."""

    content: bytes
    url: str = ""
    stop_after: int | None = None
    knows_ranges: bool = True
    tells_length: bool = True
    status: int = 200
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serve(content: bytes) -> Iterator[Server]:
    """A server on this machine that sends the content, until told otherwise."""
    server = Server(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.knows_ranges else 0
            body = server.content[start:]
            self.send_response(206 if start else server.status)
            if server.tells_length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: server.stop_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        server.url = f"http://127.0.0.1:{http_server.server_port}/stand-in.pt"
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            http_server.shutdown()
            thread.join()
