"""The message of PaiNN as one compiled operation, for training on a CPU.

The plain version (`painn.message`) writes several [edges, features] arrays a pass and reads them back; this
one, its backward, and the backward of that (forces enter the loss) read each operand once. The message is
linear in each argument, so all three are short. Single-threaded; compiled with the system's C compiler at
import. `python message.py` compares all three with the plain version in f64.

    q_i  = sum_j w0 x0_j                           w [E, 3F] filters, x [N, 3F] context of the sender
    m_ic = sum_j (w1 x1_j u_c + w2 x2_j mu_jc)     u [E, 3] unit vectors, mu [N, 3F] vectors, or None: zero
"""
import ctypes
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = r"""
#define ROW(a, k) *restrict a##0 = a + (k) * 3 * F, *restrict a##1 = a##0 + F, *restrict a##2 = a##1 + F
#define EDGES for (long e = 0; e < n; e++)
#define LOOP for (int f = 0; f < F; f++)
#define UNIT(u) const real u##0 = u[3 * e], u##1 = u[3 * e + 1], u##2 = u[3 * e + 2];
typedef const real C;
typedef const long I;

void forward(long n, I *recv, I *send, C *w, C *x, C *u, C *mu, real *q, real *m) {
  EDGES {
    UNIT(u)
    C ROW(w, e); C ROW(x, send[e]); C ROW(mu, send[e]);
    real *restrict qi = q + recv[e] * F; real ROW(m, recv[e]);
    LOOP {
      const real r = w1[f] * x1[f], v = w2[f] * x2[f];
      qi[f] += w0[f] * x0[f];
      m0[f] += r * u0 + v * mu0[f];
      m1[f] += r * u1 + v * mu1[f];
      m2[f] += r * u2 + v * mu2[f];
    }
  }
}

/* Cotangents gq, gm of q, m. Overwrites gw, gu; adds to gx, gmu. */
void vjp(long n, I *recv, I *send, C *w, C *x, C *u, C *mu, C *gq, C *gm,
         real *gw, real *gx, real *gu, real *gmu) {
  EDGES {
    UNIT(u)
    real s0 = 0, s1 = 0, s2 = 0;
    C ROW(w, e); C ROW(x, send[e]); C ROW(mu, send[e]); C ROW(gm, recv[e]); C *restrict gqi = gq + recv[e] * F;
    real ROW(gw, e); real ROW(gx, send[e]); real ROW(gmu, send[e]);
    LOOP {
      const real a = gm0[f] * u0 + gm1[f] * u1 + gm2[f] * u2;
      const real b = gm0[f] * mu0[f] + gm1[f] * mu1[f] + gm2[f] * mu2[f];
      const real r = w1[f] * x1[f], v = w2[f] * x2[f];
      gw0[f] = gqi[f] * x0[f];  gw1[f] = x1[f] * a;  gw2[f] = x2[f] * b;
      gx0[f] += gqi[f] * w0[f]; gx1[f] += w1[f] * a; gx2[f] += w2[f] * b;
      gmu0[f] += v * gm0[f];    gmu1[f] += v * gm1[f]; gmu2[f] += v * gm2[f];
      s0 += r * gm0[f]; s1 += r * gm1[f]; s2 += r * gm2[f];
    }
    gu[3 * e] = s0; gu[3 * e + 1] = s1; gu[3 * e + 2] = s2;
  }
}

/* Cotangents hw, hx, hu, hmu of vjp's outputs. Overwrites dw; adds to dgq, dgm, dx, dmu. Not for u, whose
   cotangent here would lead to positions only. */
void vjp_vjp(long n, I *recv, I *send, C *w, C *x, C *u, C *mu, C *gq, C *gm, C *hw, C *hx, C *hu, C *hmu,
             real *dgq, real *dgm, real *dw, real *dx, real *dmu) {
  EDGES {
    UNIT(u) UNIT(hu)
    C ROW(w, e); C ROW(x, send[e]); C ROW(mu, send[e]); C ROW(gm, recv[e]); C *restrict gqi = gq + recv[e] * F;
    C ROW(hw, e); C ROW(hx, send[e]); C ROW(hmu, send[e]);
    real *restrict dgqi = dgq + recv[e] * F;
    real ROW(dgm, recv[e]); real ROW(dw, e); real ROW(dx, send[e]); real ROW(dmu, send[e]);
    LOOP {
      const real a = gm0[f] * u0 + gm1[f] * u1 + gm2[f] * u2;
      const real b = gm0[f] * mu0[f] + gm1[f] * mu1[f] + gm2[f] * mu2[f];
      const real ah = gm0[f] * hu0 + gm1[f] * hu1 + gm2[f] * hu2;
      const real bh = gm0[f] * hmu0[f] + gm1[f] * hmu1[f] + gm2[f] * hmu2[f];
      const real r = w1[f] * x1[f], v = w2[f] * x2[f];
      const real rh = hw1[f] * x1[f] + hx1[f] * w1[f], vh = hw2[f] * x2[f] + hx2[f] * w2[f];
      dgqi[f] += hw0[f] * x0[f] + hx0[f] * w0[f];
      dgm0[f] += rh * u0 + vh * mu0[f] + r * hu0 + v * hmu0[f];
      dgm1[f] += rh * u1 + vh * mu1[f] + r * hu1 + v * hmu1[f];
      dgm2[f] += rh * u2 + vh * mu2[f] + r * hu2 + v * hmu2[f];
      dw0[f] = hx0[f] * gqi[f];
      dw1[f] = hx1[f] * a + x1[f] * ah;
      dw2[f] = hx2[f] * b + x2[f] * bh;
      dx0[f] += hw0[f] * gqi[f];
      dx1[f] += hw1[f] * a + w1[f] * ah;
      dx2[f] += hw2[f] * b + w2[f] * bh;
      dmu0[f] += vh * gm0[f]; dmu1[f] += vh * gm1[f]; dmu2[f] += vh * gm2[f];
    }
  }
}
"""
_libraries = {}


def _library(features, dtype):
    key = features, dtype
    if key not in _libraries:
        with tempfile.TemporaryDirectory() as folder:
            source, library = Path(folder) / "message.c", Path(folder) / "message.so"
            source.write_text(SOURCE)
            real = {torch.float32: "float", torch.float64: "double"}[dtype]
            subprocess.run(["cc", "-O3", "-march=native", "-ffast-math", "-mprefer-vector-width=512", "-fno-trapping-math",
                            f"-DF={features}", f"-Dreal={real}", "-shared", "-fPIC", "-o", library, source], check=True)
            _libraries[key] = ctypes.CDLL(str(library))
    return _libraries[key]


def _call(name, features, receivers, senders, *tensors):
    assert all(t.is_contiguous() for t in tensors)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (receivers, senders, *tensors)]
    getattr(_library(features, tensors[0].dtype), name)(ctypes.c_long(len(receivers)), *pointers)


class _Vjp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, receivers, senders, w, x, u, mu, gq, gm):
        gq, gm = gq.contiguous(), gm.contiguous()
        out = torch.empty_like(w), torch.zeros_like(x), torch.empty_like(u), torch.zeros_like(mu)
        _call("vjp", w.shape[1] // 3, receivers, senders, w, x, u, mu, gq, gm, *out)
        ctx.save_for_backward(receivers, senders, w, x, u, mu, gq, gm)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *h):
        receivers, senders, w, x, u, mu, gq, gm = ctx.saved_tensors
        h = [t.contiguous() for t in h]
        dgq, dgm, dx, dmu = (torch.zeros_like(t) for t in (gq, gm, x, mu))
        dw = torch.empty_like(w)
        _call("vjp_vjp", w.shape[1] // 3, receivers, senders, w, x, u, mu, gq, gm, *h, dgq, dgm, dw, dx, dmu)
        return None, None, dw, dx, None, dmu, dgq, dgm


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(ctx, receivers, senders, w, x, u, mu):
        q = torch.zeros(len(x), w.shape[1] // 3, dtype=w.dtype)
        m = torch.zeros_like(mu)
        _call("forward", w.shape[1] // 3, receivers, senders, w, x, u, mu, q, m)
        ctx.save_for_backward(receivers, senders, w, x, u, mu)
        return q, m

    @staticmethod
    def backward(ctx, gq, gm):
        return None, None, *_Vjp.apply(*ctx.saved_tensors, gq, gm)


def message(receivers, senders, w, x, u, mu):
    """Same arguments and results as `painn.message`. OUT q [N, F], m [N, 3, F]."""
    n = len(x)
    vectors = torch.zeros_like(x) if mu is None else mu.reshape(n, -1)
    q, m = _Message.apply(receivers, senders, w.contiguous(), x.contiguous(), u.contiguous(), vectors.contiguous())
    return q, m.view(n, 3, -1)


if __name__ == "__main__":
    import painn
    torch.manual_seed(0)
    n, edges, f = 9, 40, 64
    receivers, senders = torch.randint(n, (2, edges))
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((edges, 3 * f), (n, 3 * f), (edges, 3), (n, 3, f))]
    random = [torch.randn(s, dtype=torch.float64) for s in ((n, f), (n, 3, f), (edges, 3 * f), (n, 3 * f), (edges, 3), (n, 3, f))]
    results = []
    for function in (painn.message, message):
        out = function(receivers, senders, *leaves)
        first = torch.autograd.grad(sum((o * r).sum() for o, r in zip(out, random)) + (out[0] ** 3).sum() + (out[1] ** 3).sum(),
                                    leaves, create_graph=True)
        second = torch.autograd.grad(sum((g * r).sum() for g, r in zip(first, random[2:])), [leaves[k] for k in (0, 1, 3)])
        results.append([*out, *first, *second])
    print("largest relative difference", max(((a - b).abs().max() / a.abs().max()).item() for a, b in zip(*results)))
