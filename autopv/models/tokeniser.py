"""Frames as tokens: a convolutional encoder, a finite scalar quantiser and a decoder, each frame by itself.

Time is never strided away: every frame becomes a square of tokens of its own, and a frame can be decoded without the
others.

Source: Mentzer et al., arXiv 2309.15505 (FSQ: each of a few channels is rounded to a few values; a token is one
combination of them, so that no codebook is learned and none can collapse); van den Oord et al., arXiv 1711.00937
(gradients pass the rounding unchanged). The quantiser is vector-quantize-pytorch's. Its parts are hvae's (ladder.py).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autopv.models.ladder import Block, Encoder, Head, Mix, Stage, change_width, placed_flops, rise
from autopv.models.packages import import_package


class Tokeniser(nn.Module):
    """Frames in [-1, 1] <-> tokens (int64, below `num_codes`) in squares of the coarsest stage's side.

    stages: coarse to fine; the coarsest holds the tokens. levels: into how many values each channel of a token is
    rounded.
    """

    def __init__(
        self, stages: Sequence[Stage], *, size_px: int, channels: int, patch_px: int, levels: Sequence[int]
    ) -> None:
        super().__init__()
        self.stages = tuple(stages)
        self.side = self.stages[0].side
        self.encoder = Encoder(stages, num_inputs=channels, patch_px=patch_px)
        self.narrow = Mix(self.stages[0].width, len(levels))
        # It computes its codebook, which cannot be done on torch's `meta` device.
        with torch.device("cpu"):
            self.quantiser = import_package("vector_quantize_pytorch").FSQ(list(levels))
        self.widen = Mix(len(levels), self.stages[0].width)
        depth = sum(stage.encoder_blocks for stage in stages)
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(stage, depth=depth) for _ in range(stage.encoder_blocks)) for stage in stages
        )
        pairs = itertools.pairwise(stages)
        self.rises = nn.ModuleList(change_width(coarse.width, fine.width) for coarse, fine in pairs)
        self.head = Head(self.stages[-1], size_px=size_px, num_outputs=channels)

    @property
    def codes(self) -> Tensor:
        """What each token stands for: (num_codes, channels of a token), in [-1, 1]."""
        return self.quantiser.implicit_codebook  # type: ignore[no-any-return]

    @property
    def num_codes(self) -> int:
        """How many different tokens there are."""
        return len(self.codes)

    @property
    def num_tokens(self) -> int:
        """Of one frame."""
        return self.side**2

    def encode(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (B, channels of a token, side, side), through which gradients pass, and tokens (B, side^2)."""
        features = self.narrow(self.encoder(frames_BCHW)[0])
        codes, tokens = self.quantiser(features.float())
        return codes, tokens.flatten(1).long()

    def decode(self, codes: Tensor) -> Tensor:
        """Frames_BCHW from codes as `encode` gives them."""
        state = self.widen(codes)
        for i, blocks in enumerate(self.blocks):
            if i > 0:
                state = rise(state, side=self.stages[i].side, widen=self.rises[i - 1])
            for block in blocks:  # type: ignore[attr-defined]
                state = block(state)
        frames: Tensor = self.head(state)
        return frames.float()

    def decode_tokens(self, tokens_BN: Tensor) -> Tensor:
        """Frames_BCHW from tokens."""
        codes = self.codes[tokens_BN].transpose(1, 2)
        return self.decode(codes.reshape(len(tokens_BN), -1, self.side, self.side))

    def flops(self) -> float:
        """Of encoding and decoding one frame: multiply-adds count twice."""
        placed: list[tuple[nn.Module, int]] = [(self.narrow, self.side), (self.widen, self.side)]
        placed += [(blocks, stage.side) for blocks, stage in zip(self.blocks, self.stages, strict=True)]
        placed += [(conv, stage.side) for conv, stage in zip(self.rises, self.stages[:-1], strict=True)]
        placed += [(self.head, self.stages[-1].side)]
        return self.encoder.flops() + placed_flops(placed)
