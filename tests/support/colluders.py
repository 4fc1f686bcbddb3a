"""Rounds in which colluders of one batch send vectors that cancel, and how far these lead."""

from types import SimpleNamespace

import numpy as np

from flwr_byz.aggregation import geometric_median, geometric_median_of_means
from flwr_byz.theory import sharp_c_alpha
from tests.support.apis import CLASSIC, MESSAGE, STREAMED

APIS = {"function": None, "classic": CLASSIC, "message": MESSAGE, "streamed": STREAMED}
DTYPES = ("f2", "f4", "f8")


class Round(SimpleNamespace):
    """One round, as its fields say, which are those that `draw` draws.

    `num_bad` of the batches hold `num_colluders` each. These send numbers from 2^10 (`exponent` 0)
    to the largest finite one (1), in a `pattern`, and what their vectors make together once they
    have cancelled is the `target`; `hidden` is the size of what is hidden there, from 1 to that of
    their numbers. With `sparse`, the large numbers are in three coordinates only. Honest vectors
    lie `offset` from zero and `spread` from each other.
    """

    def _honest(self, rng):
        """Return the members' vectors by batch, and what they are spread about."""
        k, d = self.num_batches, self.dim
        means, offset = rng.normal(size=(k, d)), self.offset * rng.normal(size=d)
        scatter = rng.choice([0.0, 1.0]) * rng.normal(size=(k, self.batch_size, d))
        if self.honest == "symmetric":
            means[1::2] = -means[: k // 2 * 2 : 2]
        elif self.honest == "alike":
            means[:], scatter[:] = means[0], 0.0
        scatter -= scatter.mean(axis=1, keepdims=True)
        return offset + self.spread * (means[:, None] + scatter), offset

    def _size(self, largest, share=1.0):
        return min(2.0 ** (share * (10 + self.exponent * (np.log2(largest) - 10 - 1e-12))), largest)

    def _colluding(self, rng, largest, target):
        n, d = self.num_colluders, self.dim
        size = self._size(largest)
        big = np.where(rng.random(d) < 0.5, -size, size)
        if self.sparse:
            big[np.argsort(rng.random(d))[3:]] = 0.0
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = big * rng.uniform(-1, 1, size=(n, 1))  # at "random"
            if self.pattern == "alike":
                vectors[:] = big
            elif self.pattern == "sum":
                vectors[-1] = n * target - vectors[:-1].sum(axis=0)
            elif self.pattern in ("pairs", "around one"):
                vectors[:2], vectors[2:] = [big, -big], 0.0
                vectors[2 if self.pattern == "around one" and n > 2 else 1] += n * target
                vectors[3::2] = big / 2
        return np.clip(np.nan_to_num(rng.permutation(vectors), nan=0.0), -largest, largest)

    def vectors(self):
        """The replies by client, each of its dtype and within the model's range, and the model."""
        rng = np.random.default_rng(self.seed)
        num_clients = self.num_batches * self.batch_size
        dtypes = rng.choice(DTYPES if self.replies == "mixed" else [self.replies], num_clients)
        members, offset = self._honest(rng)
        sent = np.zeros(self.dim)
        if self.sent_nearby and self.api != "function":
            sent = offset + self.spread * rng.normal(size=self.dim)
        place = geometric_median(members[self.num_bad :].mean(axis=1)).point
        limits = [float(min(np.finfo(d).max, np.finfo(self.model).max)) for d in dtypes]
        largest = max(limits)
        if self.target == "zero":
            place = np.zeros(self.dim)
        elif self.target == "nearby":
            place = place + self.spread * rng.normal(size=self.dim)
        elif self.target == "hidden":
            place = place + self._size(largest, self.hidden) * rng.normal(size=self.dim) / 4
        for batch in members[: self.num_bad]:
            batch[: self.num_colluders] = self._colluding(rng, largest, place)
            batch[:] = rng.permutation(batch)
        flat = members.reshape(num_clients, self.dim)
        of_dtype = zip(flat, limits, dtypes, strict=True)
        return [np.clip(v, -m, m).astype(d) for v, m, d in of_dtype], sent.astype(self.model)

    def play(self, audit=None):
        """Return the aggregate, how far it may be from the honest batches' mean, and how far."""
        replies, sent = self.vectors()
        aggregate, num_trimmed, bound = self._aggregate(replies, sent, audit)
        honest = np.stack([v.astype("f8") for v in replies[self.num_bad * self.batch_size :]])
        means = honest.reshape(-1, self.batch_size, self.dim).mean(axis=1)
        centre = means.mean(axis=0)
        reach = np.linalg.norm(means - centre, axis=1).max()
        if num_trimmed == 0:
            bound = sharp_c_alpha(self.num_bad / self.num_batches)
        elif not self.gives_q and self.num_bad > (self.num_batches - num_trimmed - 1) // 2:
            bound = np.inf  # more than the kept batches are reckoned to outvote
        size = np.abs(honest).max() + np.abs(sent.astype("f8")).max()
        precision = np.finfo(self.model if self.api != "function" else "f8")
        rounding = 4 * (self.batch_size + 2) * float(precision.eps) / self.rate
        rounding *= np.sqrt(self.dim) * (size + float(precision.tiny))
        allowed = bound * (reach * (1 + 1e-6) + rounding)
        distance = np.inf if aggregate is None else float(np.linalg.norm(aggregate - centre))
        return aggregate, float(allowed), distance

    def _aggregate(self, replies, sent, audit):
        k, q = self.num_batches, {"num_byzantine": self.num_bad} if self.gives_q else {}
        if self.api == "function":
            result = geometric_median_of_means(replies, k, trim_norm=self.trim_norm, **q)
            kept = k - int(result.trimmed.sum())
            q = self.num_bad if self.gives_q else (kept - 1) // 2
            return result.point, k - kept, sharp_c_alpha(q / kept) if 2 * q < kept else np.inf
        options = q | {"num_batches": k, "reply": self.reply, "trim_norm": self.trim_norm}
        options |= {"server_learning_rate": self.rate, "audit": audit if self.audited else None}
        arrays, metrics = APIS[self.api].step([[v] for v in replies], [sent], **options)
        assert metrics["byz-rejected"] == 0, metrics
        trimmed, bound = int(metrics.get("byz-trimmed", 0)), float(metrics.get("byz-bound", 1.0))
        if arrays is None:
            return None, trimmed, bound
        step = (arrays[0].astype("f8") - sent.astype("f8")) / self.rate
        return -step if self.reply == "gradients" else sent.astype("f8") + step, trimmed, bound


def draw(rng, **fields):
    """Draw a round at random, but for the fields given."""

    def one(*values):
        return values[int(rng.integers(len(values)))]

    k, num_colluders = int(rng.integers(3, 10)), int(rng.integers(2, 6))
    model = one(*DTYPES)
    drawn = {
        "api": one(*APIS),
        "model": model,
        "replies": one(model, model, "mixed", *DTYPES),
        "reply": one("weights", "gradients"),
        "rate": one(1.0, 0.5),
        "trim_norm": one(None, "auto"),
        "audited": one(True, False, False, False, False),
        "gives_q": one(True, False),
        "dim": int(rng.integers(20, 51)),
        "num_batches": k,
        "batch_size": num_colluders + one(0, 0, 1, 2),
        "num_bad": int(rng.integers(1, (k - 1) // 2 + 1)),
        "num_colluders": num_colluders,
        "exponent": one(0.0, 0.1, 0.3, 1.0, rng.random(), rng.random()),
        "pattern": one("pairs", "around one", "sum", "alike", "random"),
        "target": one("zero", "median", "hidden", "nearby"),
        "hidden": rng.random(),
        "sparse": one(True, False, False),
        "honest": one("scattered", "symmetric", "alike"),
        "offset": one(0.0, 1.0, 30.0, 1000.0),
        "spread": 10.0 ** int(rng.integers(-3, 2)),
        "sent_nearby": one(True, False),
        "seed": int(rng.integers(2**32)),
    }
    return Round(**drawn | fields)
