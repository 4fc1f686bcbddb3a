"""Rounds in which colluders of one batch send vectors that cancel, and how far these lead."""

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from flwr_byz.aggregation import geometric_median, geometric_median_of_means
from flwr_byz.theory import sharp_c_alpha
from tests.support.malformed import fit_res, named
from tests.support.server import as_content, classic_round, message_round

APIS = ("function", "classic", "message", "streamed")
DTYPES = ("f2", "f4", "f8")
PATTERNS = ("pairs", "around one", "sum", "alike", "random")
TARGETS = ("zero", "median", "hidden", "nearby")
HONEST = ("scattered", "symmetric", "alike")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round, drawn from its fields alone.

    Attributes
    ----------
    api : {"function", "classic", "message", "streamed"}
    model, replies : {"f2", "f4", "f8"}
        The model's dtype and that of the replies; they are "mixed" where each has its own.
    num_batches, batch_size, num_bad, num_colluders : int
        k, the clients in each batch, the batches that hold colluders, and the colluders in each.
    exponent : float
        In [0, 1]: colluders send numbers from 2^10 (0) to the largest finite one (1).
    pattern : str
        "pairs" of vectors that cancel, such a pair "around one" vector, vectors whose "sum" is what
        it should be, all "alike", or "random" ones.
    target : str
        What the colluders' vectors come to once they have cancelled.
    hidden : float
        In [0, 1]: the size of what is hidden, from 1 to that of the colluders' numbers.
    sparse : bool
        Whether the large numbers are in three coordinates only.
    honest : str
        How the honest batch means lie.
    offset, spread : float
        How far from zero the honest vectors lie, and how far from each other.
    sent_nearby : bool
        Whether the model that was sent lies near the honest ones (else at zero).
    """

    api: str
    model: str
    replies: str
    reply: str
    rate: float
    trim_norm: str | None
    audited: bool
    gives_q: bool
    dim: int
    num_batches: int
    batch_size: int
    num_bad: int
    num_colluders: int
    exponent: float
    pattern: str
    target: str
    hidden: float
    sparse: bool
    honest: str
    offset: float
    spread: float
    sent_nearby: bool
    seed: int

    @cached_property
    def _rng(self):
        return np.random.default_rng(self.seed)

    def _dtypes(self):
        """One dtype a client; numbers of a wider one than the model's stay within its range."""
        num_clients = self.num_batches * self.batch_size
        if self.replies == "mixed":
            return [np.dtype(d) for d in self._rng.choice(DTYPES, size=num_clients)]
        return [np.dtype(self.replies)] * num_clients

    def _honest(self):
        rng, k, d = self._rng, self.num_batches, self.dim
        means = rng.normal(size=(k, d))
        if self.honest == "symmetric":
            means[1::2] = -means[: k // 2 * 2 : 2]
        if self.honest == "alike":
            means[:] = means[0]
        offset = self.offset * rng.normal(size=d)
        within = 0.0 if self.honest == "alike" else rng.choice([0.0, 1.0])
        scatter = within * rng.normal(size=(k, self.batch_size, d))
        scatter -= scatter.mean(axis=1, keepdims=True)
        return offset + self.spread * (means[:, None] + scatter), offset

    def _colluding(self, largest, target):
        rng, n, d = self._rng, self.num_colluders, self.dim
        size = 2.0 ** (10 + self.exponent * (np.log2(largest) - 10 - 1e-12))
        size = min(size, largest)
        big = np.where(rng.random(d) < 0.5, -size, size)
        if self.sparse:
            big[np.argsort(rng.random(d))[3:]] = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            if self.pattern == "alike":
                vectors = np.stack([big] * n)
            elif self.pattern == "random":
                vectors = np.stack([big * rng.uniform(-1, 1) for _ in range(n)])
            elif self.pattern == "sum":
                vectors = np.stack([big * rng.uniform(-1, 1) / n for _ in range(n)])
                vectors[-1] = n * target - vectors[:-1].sum(axis=0)
            else:
                vectors = np.zeros((n, d))
                vectors[0], vectors[1] = big, -big
                if self.pattern == "around one" and n > 2:
                    vectors[2] = n * target
                else:
                    vectors[1] += n * target
                for extra in range(3, n, 2):
                    vectors[extra] = big / 2
                    vectors[extra - 1] -= big / 2 if extra > 3 else 0.0
        if self._rng.random() < 0.5:
            vectors = rng.permutation(vectors)
        return np.clip(np.nan_to_num(vectors, nan=0.0), -largest, largest)

    @cached_property
    def vectors(self):
        """The replies' updates or gradients by client, as numbers of the replies' dtypes."""
        dtypes = self._dtypes()
        honest, offset = self._honest()
        sent = np.zeros(self.dim)
        if self.sent_nearby and self.api != "function":
            sent = offset + self.spread * self._rng.normal(size=self.dim)
        sent = sent.astype(self.model)
        means = honest[self.num_bad :].mean(axis=1)
        place = geometric_median(means).point
        if self.target == "zero":
            place = np.zeros(self.dim)
        elif self.target == "nearby":
            place = place + self.spread * self._rng.normal(size=self.dim)
        largest = min(np.finfo(self.model).max, max(np.finfo(d).max for d in dtypes))
        largest = float(largest)
        if self.target == "hidden":
            hidden = 2.0 ** (self.hidden * (10 + self.exponent * (np.log2(largest) - 10 - 1e-12)))
            place = place + min(hidden, largest) * self._rng.normal(size=self.dim) / 4
        replies = []
        for batch in range(self.num_batches):
            members = list(honest[batch])
            if batch < self.num_bad:
                members[: self.num_colluders] = list(self._colluding(largest, place))
                order = self._rng.permutation(self.batch_size)
                members = [members[i] for i in order]
            for member in members:
                dtype = dtypes[len(replies)]
                limit = float(min(np.finfo(dtype).max, np.finfo(self.model).max))
                replies.append(np.clip(member, -limit, limit).astype(dtype))
        return replies, sent

    def play(self, audit=None):
        """Play the round.

        Returns
        -------
        aggregate : ndarray or None
            None where the model was kept.
        bound : float
            How far the aggregate may lie off the honest means' mean.
        distance : float
        """
        replies, sent = self.vectors
        aggregate, num_trimmed, bound = self._aggregate(replies, sent, audit)
        means = np.stack(
            [
                np.mean(np.stack(replies[i : i + self.batch_size]).astype("f8"), axis=0)
                for i in range(self.num_bad * self.batch_size, len(replies), self.batch_size)
            ]
        )
        centre = means.mean(axis=0)
        reach = np.linalg.norm(means - centre, axis=1).max()
        if num_trimmed == 0:
            bound = sharp_c_alpha(self.num_bad / self.num_batches)
        kept = self.num_batches - num_trimmed
        if num_trimmed and not self.gives_q and self.num_bad > (kept - 1) // 2:
            bound = np.inf  # more than the kept batches are reckoned to outvote
        honest = replies[self.num_bad * self.batch_size :]
        size = max(np.abs(h.astype("f8")).max() for h in honest) + np.abs(sent.astype("f8")).max()
        precision = self.model if self.api != "function" else "f8"
        rounding = 4 * (self.batch_size + 2) * float(np.finfo(precision).eps) / self.rate
        rounding *= np.sqrt(self.dim) * (size + float(np.finfo(precision).tiny))
        allowed = bound * (reach * (1 + 1e-6) + rounding)
        distance = np.inf if aggregate is None else float(np.linalg.norm(aggregate - centre))
        return aggregate, float(allowed), distance

    def _aggregate(self, replies, sent, audit):
        sizes = {"num_batches": self.num_batches}
        if self.gives_q:
            sizes["num_byzantine"] = self.num_bad
        if self.api == "function":
            k = sizes.pop("num_batches")
            result = geometric_median_of_means(replies, k, trim_norm=self.trim_norm, **sizes)
            trimmed = int(result.trimmed.sum())
            kept = k - trimmed
            q = self.num_bad if self.gives_q else (kept - 1) // 2
            return result.point, trimmed, sharp_c_alpha(q / kept) if 2 * q < kept else np.inf
        options = sizes | {
            "reply": self.reply,
            "server_learning_rate": self.rate,
            "trim_norm": self.trim_norm,
            "audit": audit if self.audited else None,
        }
        if self.api == "classic":
            results = {client: fit_res([v]) for client, v in enumerate(replies)}
            arrays, metrics = classic_round([sent], results, **options)
        else:
            contents = {node: as_content([v], 5) for node, v in enumerate(replies, start=1)}
            streaming = {"streaming": True} if self.api == "streamed" else {}
            arrays, metrics = message_round(named([sent]), contents, **streaming, **options)
        assert metrics["byz-rejected"] == 0, metrics
        if arrays is None:
            return None, int(metrics.get("byz-trimmed", 0)), float(metrics.get("byz-bound", 1.0))
        step = (arrays[0].astype("f8") - sent.astype("f8")) / self.rate
        aggregate = -step if self.reply == "gradients" else sent.astype("f8") + step
        return aggregate, int(metrics["byz-trimmed"]), float(metrics["byz-bound"])

    def __str__(self):
        fields = ", ".join(f"{name}={value!r}" for name, value in asdict(self).items())
        return f"Round({fields})"


def draw(rng):
    """Draw a round at random."""

    def one(values):
        return values[int(rng.integers(len(values)))]

    k = int(rng.integers(3, 10))
    num_colluders = int(rng.integers(2, 6))
    model = one(DTYPES)
    return Round(
        api=one(APIS),
        model=model,
        replies=one((model, model, "mixed", *DTYPES)),
        reply=one(("weights", "gradients")),
        rate=one((1.0, 0.5)),
        trim_norm=one((None, "auto")),
        audited=bool(rng.random() < 0.2),
        gives_q=bool(rng.random() < 0.5),
        dim=int(rng.integers(20, 51)),
        num_batches=k,
        batch_size=num_colluders + int(rng.choice([0, 0, 1, 2])),
        num_bad=int(rng.integers(1, (k - 1) // 2 + 1)),
        num_colluders=num_colluders,
        exponent=float(rng.choice([0.0, 0.1, 0.3, 1.0, rng.random(), rng.random()])),
        pattern=one(PATTERNS),
        target=one(TARGETS),
        hidden=float(rng.random()),
        sparse=bool(rng.random() < 0.3),
        honest=one(HONEST),
        offset=float(rng.choice([0.0, 1.0, 30.0, 1000.0])),
        spread=float(10.0 ** rng.integers(-3, 2)),
        sent_nearby=bool(rng.random() < 0.5),
        seed=int(rng.integers(2**32)),
    )
