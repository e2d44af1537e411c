"""The true outputs of gates and LSTMs, in float64 or, for storage float64, in long double, and the errors allowed."""

import fastgate
import numpy as np

SPAN = 512  # inputs that int8 storage rounds together


def sigmoid(z):
    t = np.exp(-np.abs(z))
    return np.where(z < 0, t, 1.0) / (1.0 + t)


def close(got, x, weight, bias=None, storage="float32"):
    """Assert that got (..., m) is sigmoid(weight @ x + bias) for x (..., n), within the errors that rounding may make.

    weight is first rounded as the storage does. An output may be wrong by 1 ULP, in float64 by 1.5, beyond what its
    sigmoid makes of an error of the sum. That error is bounded for n products and a bias that are added in any order,
    each operation rounded once: gamma(n + 2) times the sum of the magnitudes (Higham, Accuracy and Stability, 3.1), and
    half the smallest number for each operation. For int8, which rounds x to a multiple of a power of two in each span,
    add max |x| / 2^15 of the span for each input.
    """
    dtype, precise, ulps = np.float32, np.float64, 1.0
    if storage == "float64":
        dtype, precise, ulps = np.float64, np.longdouble, 1.5
    given = np.asarray(weight, dtype)
    x, weight = np.asarray(x, precise), fastgate.reference.rounded(given, storage).astype(precise)
    m, n = weight.shape
    bias = np.zeros(m, precise) if bias is None else np.asarray(bias, precise)
    assert isinstance(got, np.ndarray) and got.dtype == dtype
    assert got.shape == (*x.shape[:-1], m)

    with np.errstate(all="ignore"):
        z = x @ weight.T + bias
        magnitude = np.abs(x) @ np.abs(weight).T + np.abs(bias)
        roundoff = (np.finfo(dtype).eps + np.finfo(precise).eps) / 2  # of got, and of z as computed here
        gamma = (n + 2) * roundoff / (1 - (n + 2) * roundoff)
        error = gamma * magnitude + (n + 2) * np.finfo(dtype).smallest_subnormal.astype(precise)
        if storage == "int8":
            for k in range(0, n, SPAN):
                largest = np.abs(x[..., k : k + SPAN]).max(axis=-1, keepdims=True)
                error += 2.0**-15 * largest * np.abs(weight[:, k : k + SPAN]).sum(axis=1)
        expected = sigmoid(z)
        ulp = ulps * np.spacing(expected.astype(dtype)).astype(precise)
        low, high = sigmoid(z - error) - ulp, sigmoid(z + error) + ulp

    finite = np.isfinite(z)
    np.testing.assert_array_equal(got[~finite], expected[~finite].astype(dtype))
    wrong = finite & ~((low <= got) & (got <= high))  # NaN is wrong too
    assert not wrong.any(), (
        f"{np.count_nonzero(wrong)} of {got.size} outputs are wrong, such as "
        f"{got[wrong][:3]} for {expected[wrong][:3]}, allowed {low[wrong][:3]} to {high[wrong][:3]}"
    )


# ---- LSTM -------------------------------------------------------------------------------------


def precision(storage):
    """The storage's dtype, the dtype of the true values, and the magnitude below which c and o tanh(c) become 0."""
    if storage == "float64":
        return np.float64, np.longdouble, 2.0**-960
    return np.float32, np.float64, 2.0**-100


def held(p, storage):
    """A layer's parameters -> [weight_ih | weight_hh], bias, peephole and projection, rounded as the storage does."""
    dtype, precise, _ = precision(storage)
    p = {key: np.asarray(value, dtype) for key, value in p.items() if value is not None}
    weight = fastgate.reference.rounded(np.hstack([p["weight_ih"], p["weight_hh"]]), storage)
    hidden = len(weight) // 4
    bias = sum([p[key] for key in ("bias_ih", "bias_hh") if key in p], np.zeros(4 * hidden, dtype))
    peephole = p.get("peephole", np.zeros((3, hidden)))
    projection = p.get("projection")
    if projection is not None:
        projection = fastgate.reference.rounded(projection, storage).astype(precise)
    return weight.astype(precise), bias.astype(precise), peephole.astype(precise), projection


def product(weight, bias, x, e_x, storage, extra=0, inputs=0):
    """weight @ x + bias and its error by the bound of `close`; x has the error e_x, summands of size `extra` follow.

    int8 rounds the first `inputs` elements of x span by span, and then the others.
    """
    dtype, precise, _ = precision(storage)
    n = x.shape[-1] + 4  # products, the bias, and the product and sum of a peephole
    roundoff = (np.finfo(dtype).eps + np.finfo(precise).eps) / 2
    gamma = n * roundoff / (1 - n * roundoff)
    size = np.abs(x) + e_x
    e = gamma * (size @ np.abs(weight).T + np.abs(bias) + extra) + e_x @ np.abs(weight).T
    e = e + n * np.finfo(dtype).smallest_subnormal.astype(precise)
    if storage == "int8":
        for part, w in zip(np.split(size, [inputs], axis=-1), np.split(np.abs(weight), [inputs], axis=1)):
            for k in range(0, w.shape[1], SPAN):
                span = part[..., k : k + SPAN].max(axis=-1, keepdims=True)
                e = e + 2.0**-15 * span * w[:, k : k + SPAN].sum(axis=1)
    return x @ weight.T + bias, e


def through(function, z, e, storage):
    """function(z), which is monotonic, and its error if z has the error e: at least the smallest number."""
    dtype, precise, _ = precision(storage)
    y = function(z)
    e = np.where(np.isfinite(z), e, 0)
    least = np.finfo(dtype).smallest_subnormal.astype(precise)
    return y, np.maximum(function(z + e) - y, y - function(z - e)) + least


def step(x, h, c, p, *, clip=None, gate_clip=None, input_forget=False, storage="float32"):
    """One step of an LSTM from its equations: h, c, and the error that each may have.

    Errors are carried from each operation to the next. Those of sums come from `product`, those of sigmoid and tanh
    from `through`; the cell adds 6 ULP of |f c| + |i g| to those of c', and 6 ULP of o tanh(c') to those of h'.
    """
    dtype, precise, least = precision(storage)
    weight, bias, (p_i, p_f, p_o), projection = held(p, storage)
    unit = np.finfo(dtype).eps
    x, h, c = (np.asarray(array, precise) for array in (x, h, c))

    def clipped(z, limit):
        return z if limit is None else np.clip(z, -dtype(limit), dtype(limit))

    def gates(z):
        return np.split(z, 4, axis=-1)

    with np.errstate(all="ignore"):
        zero = np.zeros_like(c)
        extra = np.concatenate([np.abs(p_i * c), np.abs(p_f * c), zero, zero], axis=-1)
        xh = np.concatenate([x, h], axis=-1)
        z, e = product(weight, bias, xh, np.zeros_like(xh), storage, extra, x.shape[-1])
        (z_i, z_f, z_g, z_o), (e_zi, e_zf, e_zg, e_zo) = gates(z), gates(e)
        i, e_i = through(sigmoid, clipped(z_i + p_i * c, gate_clip), e_zi, storage)
        f, e_f = through(sigmoid, clipped(z_f + p_f * c, gate_clip), e_zf, storage)
        g, e_g = through(np.tanh, clipped(z_g, gate_clip), e_zg, storage)
        if input_forget:
            f, e_f = 1 - i, e_i + unit
        e_c = e_f * np.abs(c) + (i + e_i) * e_g + np.abs(g) * e_i
        e_c = e_c + 6 * unit * (np.abs(f * c) + np.abs(i * g)) + least
        c = clipped(f * c + i * g, clip)
        c = np.where(np.abs(c) < least, 0, c)

        e_c = np.where(np.isfinite(c), e_c, 0)
        e_zo = e_zo + np.abs(p_o) * e_c + 2 * unit * np.abs(p_o * c)
        o, e_o = through(sigmoid, clipped(z_o + p_o * c, gate_clip), e_zo, storage)
        t, e_t = through(np.tanh, c, e_c, storage)
        e_h = (o + e_o) * e_t + np.abs(t) * e_o + 6 * unit * np.abs(o * t) + least
        h = o * t
        h = np.where(np.abs(h) < least, 0, h)
        if projection is not None:
            h, e_h = product(projection, np.zeros(len(projection)), h, e_h, storage)
    return h, c, e_h, e_c


def within(got, expected, error, dtype):
    """Assert that got differs from expected by at most `error`; infinities and NaN must be the same."""
    assert isinstance(got, np.ndarray) and got.dtype == dtype and got.shape == expected.shape
    finite = np.isfinite(expected) & np.isfinite(error)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got[~finite], expected[~finite].astype(dtype))
        wrong = finite & ~(np.abs(got - expected) <= error)  # NaN is wrong too
    assert not wrong.any(), (
        f"{np.count_nonzero(wrong)} of {got.size} are wrong, such as {got[wrong][:3]} for "
        f"{expected[wrong][:3]}, allowed is a distance of {error[wrong][:3]}"
    )


def close_step(got, x, h, c, p, **options):
    """Assert that got = (h, c) is the result of a step from x, h and c, within the errors that `step` allows."""
    h, c, e_h, e_c = step(x, h, c, p, **options)
    dtype = precision(options.get("storage", "float32"))[0]
    within(got[0], h, e_h, dtype)
    within(got[1], c, e_c, dtype)


def run(x, h_0, c_0, layers, *, reverse=False, **options):
    """An LSTM's y (T, [B,] D * size), h_n (L * D, [B,] size) and c_n for x (T, [B,] n), not rounded."""
    _, precise, _ = precision(options.get("storage", "float32"))
    h_n, c_n = h_0.astype(precise), c_0.astype(precise)
    y, k = x, 0
    for layer in layers:
        outputs = []
        for backwards, p in zip((reverse, True), layer if isinstance(layer, tuple) else (layer,)):
            output = np.empty((len(x), *h_n.shape[1:]), precise)
            for t in range(len(x))[:: -1 if backwards else 1]:
                h_n[k], c_n[k], _, _ = step(y[t], h_n[k], c_n[k], p, **options)
                output[t] = h_n[k]
            outputs.append(output)
            k += 1
        y = np.concatenate(outputs, axis=-1)
    return y, h_n, c_n
