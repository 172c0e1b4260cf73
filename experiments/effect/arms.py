"""The policies and the trainings of this experiment: which arm, on which images, on which seed, to which length."""

from dataclasses import dataclass

from autopv.policy import Layer, Policy
from autopv.spaces import Space

BRIEF = 600
"""Image-only steps that the compute of a brief trial pays for; 3 and 9 times as much are the longer trainings."""
EARLY = (1 / 8, 1 / 4, 1 / 2)
"""Looks before the end of a brief trial, in brief trials."""
IMAGE_ONLY = "image-only"
PYRAMID_WEIGHTS = (0.06, 0.3, 1.0)
WEIGHT, NUM_FRAMES = 0.06, 3
"""What did best among few probes: the arms differ from it in one thing at a time."""
SEEDS = (201, 202, 203)


def _single(op: str, magnitude: float, *, num_frames: int = NUM_FRAMES, curve: str = "linear", **changes) -> Policy:
    layer = Layer(op=op, magnitude=magnitude, curve=curve, frames=(1, num_frames - 1))
    return Policy(num_frames=num_frames, **{"frame_loss_weight": WEIGHT, **changes}, layers=(layer,)).canonical()


_APART_LOOKS = (2.0, 4.0, 8.0, 16.0)


def _halves(**magnitudes: float) -> Policy:
    """Two frames that count alike: the image, and all of these ops on it."""
    layers = tuple(Layer(op=op, magnitude=magnitude, frames=(1, 1)) for op, magnitude in magnitudes.items())
    return Policy(num_frames=2, frame_loss_weight=1.0, layers=layers).canonical()


_APART = {
    "half geometry": _halves(rotate=5.0, translate=0.06, zoom=0.08),
    "half light": _halves(brightness=0.15, gamma=0.4),
    "half erase": _halves(erase=0.38),
    "half noise": _halves(gaussian_noise=0.18),
    "half blur": _halves(gaussian_blur=0.06),
}
"""Frames that are images of another class: as many as there are images (experiments of `diffusion`)."""


def arms() -> dict[str, Policy]:
    """Every arm by name: corruptions, then weights and ends of one, then lengths and orders, then random policies."""
    space = Space.load("stage2_expressive")
    return {
        IMAGE_ONLY: Policy.image_only(),
        "noise": _single("gaussian_noise", 0.18),
        "blur": _single("gaussian_blur", 0.06),
        "pixelate": _single("pixelate", 0.16),
        "contrast": _single("contrast", 0.6),
        "erase": _single("erase", 0.38),
        "gamma": _single("gamma", 0.4),
        "gamma-w.01": _single("gamma", 0.4, frame_loss_weight=0.01),
        "gamma-w.3": _single("gamma", 0.4, frame_loss_weight=0.3),
        "gamma-until.25": _single("gamma", 0.4, frame_loss_until=0.25),
        "gamma-T2": _single("gamma", 0.4, num_frames=2),
        "gamma-T6": _single("gamma", 0.4, num_frames=6),
        "noise-T6-chain": _single("gaussian_noise", 0.18, num_frames=6),
        "noise-T6-star": _single("gaussian_noise", 0.18, num_frames=6, markov_order=5),
        # Frames at the resolution of the levels they are read off (8 px: 2 and 4 pixels a side), at rising weights.
        **{f"pyramid-w{weight:g}": _single("pixelate", 0.5, frame_loss_weight=weight) for weight in PYRAMID_WEIGHTS},
        **{f"random-{i + 1}": space.random_policy(i) for i in range(3)},
        **_APART,
    }


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: `looks` are annealed measurements, in brief trials; `averages` adds un-annealed ones beside.

    variant: of the model, by its name in variants.py; empty for the model as it is.
    """

    domain: str
    num_images: int
    arm: str
    seed: int
    looks: tuple[float, ...]
    averages: bool = False
    variant: str = ""

    @property
    def key(self) -> str:
        """Names the training and its file."""
        return f"{self.domain}-{self.num_images}-{self.arm}{self.variant and '-' + self.variant}-{self.seed}"


WHOLE = 10**6
"""As many images as there are."""
_CORRUPTIONS = (
    IMAGE_ONLY,
    "noise",
    "blur",
    "pixelate",
    "contrast",
    "erase",
    "gamma",
    "random-1",
    "random-2",
    "random-3",
)
_PYRAMIDS = tuple(f"pyramid-w{weight:g}" for weight in PYRAMID_WEIGHTS)
_DIGITS_KL = (IMAGE_ONLY, "pyramid-w0.06", "erase", "noise")
_FAMILIES = (IMAGE_ONLY, "noise", "blur", "erase", "gamma", "gamma-w.3", "random-2")
"""Of other families; all of three frames, since a refining generator pays for each."""
_WEIGHTS = ("gamma-T2", "gamma-w.01", "pyramid-w0.06", "pyramid-w1")
_LEADERS = ("blur", "pyramid-w0.06", "pyramid-w1")
_TOKENS = (IMAGE_ONLY, "blur", "gamma", "noise", "pyramid-w0.06")
_TOKENS_JOINT = ("blur", "gamma", "pyramid-w1")
_FOUR_SEEDS = (201, 202, 203, 204)
_LONG = (IMAGE_ONLY, "gamma", "blur")
_FEW = (IMAGE_ONLY, "gamma", "noise")


def jobs() -> dict[str, list[Job]]:
    """Every training by study; where two studies share a training, the later one goes on from where it stands."""
    brief = (*EARLY, 1.0, 3.0)
    every = tuple(arm for arm in arms() if arm not in (*_PYRAMIDS, *_APART))

    def each(
        names: tuple[str, ...], *, seeds: tuple[int, ...] = SEEDS, domain: str = "elpv", num_images: int = WHOLE, **kw
    ):
        return [Job(domain=domain, num_images=num_images, arm=a, seed=s, **kw) for s in seeds for a in names]

    return {
        # All arms at 1x and 3x, and what each earlier look was worth.
        "looks": each(every, seeds=SEEDS[:2], looks=brief, averages=True),
        # The third seed of all of them; only what trainings end with.
        "third": each(every, seeds=SEEDS[2:], looks=(1.0, 3.0)),
        # The arms that matter at 9x.
        "long": each(_LONG, looks=(1.0, 3.0, 9.0)),
        "few": [job for n in (100, 300) for job in each(_FEW, num_images=n, seeds=SEEDS[:2], looks=(1.0, 2.0, 4.0))],
        # 300 defects until image-only stops improving: a small manufacturer's case.
        "300": each((*_FEW, "pyramid-w0.06"), num_images=300, looks=(2.0, 4.0, 8.0)),
        # Few, simple images. At 8 px the model has six levels, too few for longer policies.
        "digits": each(
            tuple(a for a in (*_CORRUPTIONS, *_PYRAMIDS) if arms()[a].num_frames <= 6),
            domain="digits",
            seeds=SEEDS[:2],
            looks=(0.5, 1.0, 2.0, 4.0),
        ),
        # What trainings on the digits differ in is how far the likelihood's scale falls; with KL terms that count twice
        # it stays.
        "digits-kl": each(_DIGITS_KL, domain="digits", variant="KL 2", looks=(1.0, 2.0, 4.0)),
        # The gain of frames at the levels' own resolutions comes late: as long as it takes.
        "digits-kl-long": each(
            (IMAGE_ONLY, "pyramid-w0.06"), domain="digits", variant="KL 2", looks=(1.0, 2.0, 4.0, 8.0, 16.0)
        ),
        # The same frames on the defects, whose levels have 1, 2, 4 and 8 features a side.
        "pyramid": each((IMAGE_ONLY, "pyramid-w0.06"), looks=(1.0, 3.0, 9.0)),
        "textures": each(_CORRUPTIONS, domain="textures", seeds=SEEDS[:2], looks=(1.0, 3.0)),
        # Why the lead fades: other forces on the pseudo frames, other levels for them, another likelihood.
        "why": [
            job
            for arm, variant in (("gamma-w.3", "own"), ("gamma", "early"), (IMAGE_ONLY, "mixture"))
            for job in each((arm,), seeds=SEEDS[:2], variant=variant, looks=(1.0, 3.0))
        ],
        # Why other families do not gain: fewer frames, other weights, frames at the levels' own resolutions.
        "refine-why": each(_WEIGHTS, seeds=SEEDS[:2], variant="refine", looks=(1.0, 3.0)),
        "diffusion-why": [
            *each(_WEIGHTS, seeds=SEEDS[:2], variant="diffusion", looks=(1.0, 3.0)),
            *[
                job
                for variant in ("leading", "higher", "told")
                for job in each(_LEADERS, seeds=SEEDS[:2], variant=variant, looks=(1.0, 3.0))
            ],
        ],
        # Pseudo frames that diffusion only tells: more seeds, and a training three times as long.
        "diffusion-told": [
            *each((IMAGE_ONLY,), seeds=_FOUR_SEEDS, variant="diffusion", looks=(1.0, 3.0)),
            *each(("blur", "pyramid-w0.06"), seeds=_FOUR_SEEDS, variant="told", looks=(1.0, 3.0)),
        ],
        "diffusion-long": [
            *each((IMAGE_ONLY,), seeds=SEEDS[:2], variant="diffusion", looks=(1.0, 3.0, 9.0)),
            *each(("pyramid-w0.06",), seeds=SEEDS[:2], variant="told", looks=(1.0, 3.0, 9.0)),
        ],
        "diffusion-told-textures": [
            job
            for seed in _FOUR_SEEDS
            for job in [
                *each((IMAGE_ONLY,), seeds=(seed,), domain="textures", variant="diffusion", looks=(1.0, 3.0)),
                *each(("blur", "pyramid-w0.06"), seeds=(seed,), domain="textures", variant="told", looks=(1.0, 3.0)),
            ]
        ],
        # Few images, which diffusion learns by heart: do frames that are images of another class keep it from that?
        "apart": [
            job
            for seed in SEEDS[:2]
            for job in [
                *each((IMAGE_ONLY,), seeds=(seed,), num_images=300, variant="diffusion", looks=(2.0, 4.0, 8.0)),
                *each(tuple(_APART), seeds=(seed,), num_images=300, variant="apart", looks=(2.0, 4.0, 8.0)),
            ]
        ],
        # As long as it takes image-only training to get worse.
        "apart-long": [
            job
            for seed in SEEDS[:2]
            for job in [
                *each((IMAGE_ONLY,), seeds=(seed,), num_images=300, variant="diffusion", looks=_APART_LOOKS),
                *each(("half geometry",), seeds=(seed,), num_images=300, variant="apart", looks=_APART_LOOKS),
            ]
        ],
        # Third seeds, told beside the first two by --earlier.
        "300-third": each((*_FEW, "pyramid-w0.06"), num_images=300, seeds=SEEDS[2:], looks=(2.0, 4.0, 8.0)),
        "textures-third": each(_CORRUPTIONS, domain="textures", seeds=SEEDS[2:], looks=(1.0, 3.0)),
        # The other families, one seed after the other.
        **{
            family: [
                job
                for seed in _FOUR_SEEDS
                for domain in ("elpv", "textures")
                for job in each(_FAMILIES, seeds=(seed,), domain=domain, variant=family, looks=(1.0, 3.0))
            ]
            for family in ("refine", "diffusion")
        },
        # The token model tells pseudo frames beside; the usual video model, which draws all frames, beside it.
        **{
            study: [
                job
                for seed in seeds
                for job in [
                    *each(_TOKENS, seeds=(seed,), domain=domain, variant="vq", looks=(1.0, 3.0)),
                    *each(_TOKENS_JOINT, seeds=(seed,), domain=domain, variant="vq-joint", looks=(1.0, 3.0)),
                ]
            ]
            for study, domain, seeds in (("vq", "elpv", SEEDS[:2]), ("vq-textures", "textures", SEEDS[:2]))
        },
        "vq-long": each((IMAGE_ONLY, "noise"), seeds=SEEDS[:2], variant="vq", looks=(1.0, 3.0, 9.0)),
        "vq-masked": [
            job
            for seed in SEEDS[:2]
            for job in [
                *each((IMAGE_ONLY, "blur"), seeds=(seed,), variant="vq-masked", looks=(1.0, 3.0)),
                *each(("blur",), seeds=(seed,), variant="vq-masked-joint", looks=(1.0, 3.0)),
            ]
        ],
    }
