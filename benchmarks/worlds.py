"""Random worlds: pictures with known classes, made of shapes, textures, optics and noise."""
import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

def field(rng, n, sigma):
    """Gaussian random field (n, n), zero mean, unit variance, correlation length sigma."""
    f = np.fft.rfftfreq(n)[None] ** 2 + np.fft.fftfreq(n)[:, None] ** 2
    x = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * np.exp(-2 * (np.pi * sigma) ** 2 * f), s=(n, n))
    return (x - x.mean()) / (x.std() + 1e-6)

def warp(rng, n, strength, sigma):
    y, x = np.mgrid[:n, :n].astype(float)
    return y + strength * field(rng, n, sigma), x + strength * field(rng, n, sigma)

def log_uniform(rng, a, b): return float(np.exp(rng.uniform(np.log(a), np.log(b))))

# -- geometry: each gives (classes map int, object ids) for one picture, parameters fixed in a world
def ellipses(rng, n, p):
    y, x = warp(rng, n, p['rough'], p['radius'] * .6)
    ids = np.zeros((n, n), int)
    count = max(2, int(p['cover'] * n * n / (np.pi * p['radius'] ** 2)))
    for k in range(1, count + 1):
        cy, cx = rng.uniform(-5, n + 5, 2); r = p['radius'] * np.exp(rng.normal(0, p['spread'])); e = np.exp(rng.normal(0, p['ecc']) / 2 + p['long'] / 2); t = rng.uniform(0, np.pi)
        dy, dx = y - cy, x - cx
        u, v = np.cos(t) * dy + np.sin(t) * dx, -np.sin(t) * dy + np.cos(t) * dx
        m = (u / (r * e)) ** 2 + (v / (r / e)) ** 2 < 1
        if p['apart'] and (ids[ndi.binary_dilation(m, iterations=2)] > 0).any(): continue
        ids[m] = k
    return ids

def tissue(rng, n, p):
    pad = p['radius'] * 2
    count = max(4, int((n + 2 * pad) ** 2 / (3.2 * p['radius'] ** 2)))
    pts = rng.uniform(-pad, n + pad, (count, 2))
    pts = pts[np.lexsort(pts.T)]
    w = np.exp(rng.normal(0, p['spread'], count))
    y, x = warp(rng, n, p['rough'] * 1.5, p['radius'] * .5)
    q = np.stack([y.ravel(), x.ravel()], 1)
    d, i = cKDTree(pts).query(q, k=min(6, count))
    d = d / w[i]
    o = np.argsort(d, 1)[:, :2]
    d0, d1 = (np.take_along_axis(d, o[:, j:j + 1], 1)[:, 0] for j in (0, 1))
    ids = np.take_along_axis(i, o[:, :1], 1)[:, 0].reshape(n, n) + 1
    gap = ((d1 - d0) / 2).reshape(n, n) * 1.0
    return ids, gap

def regions(rng, n, p):
    f = field(rng, n, p['radius'] * .7)
    return (f > np.quantile(f, 1 - p['cover'])).astype(int) if p['cover'] < 1 else np.ones((n, n), int)

def lines(rng, n, p):
    f = field(rng, n, p['radius'])
    gy, gx = np.gradient(f)
    d = np.abs(f - rng.normal(0, .3)) / (np.hypot(gy, gx) + .02)
    return (d < p['thick']).astype(int)

class World:
    """A style; `picture` draws another picture in it."""
    def __init__(self, rng, n):
        self.n = n
        self.kind = rng.choice(['objects', 'objects', 'nested', 'tissue', 'tissue', 'regions', 'lines', 'cells'])
        self.p = dict(radius=log_uniform(rng, 3.5, 28), spread=rng.uniform(0, .35), ecc=rng.uniform(0, .5), long=rng.choice([0, 0, rng.uniform(0, 1.4)]),
                      rough=rng.uniform(0, 4), cover=rng.uniform(.05, .6), apart=rng.random() < .6, thick=log_uniform(rng, .8, 3.5))
        if self.kind == 'tissue': self.p['radius'] = log_uniform(rng, 9, 40)
        self.colour = rng.random() < .3
        C = 3 if self.colour else 1
        K = 5
        base = rng.uniform(0, 1, C)
        far = rng.choice([.08, .25, .6])
        self.mean = base + rng.normal(0, far, (K, C)) * 1.0
        self.jitter = rng.choice([0, .05, .2]) * rng.random(K)
        self.tex = [(log_uniform(rng, .6, 6), rng.choice([0, .05, .15, .3]) * rng.random()) for _ in range(K)]
        self.shared = (log_uniform(rng, .6, 10), rng.choice([0, .1, .25]) * rng.random())
        self.shade = rng.choice([0, .15, .4]) * rng.random()
        self.rim = (rng.choice([0, 0, .4]) * rng.normal(), log_uniform(rng, .7, 2.5))
        self.halo = (rng.choice([0, 0, .5]) * rng.normal(), log_uniform(rng, 2, 8))
        self.dome = rng.choice([0, 0, .5]) * rng.normal()
        self.blur = rng.choice([0, .7, 1.2, 2]); self.noise = rng.choice([.01, .04, .1, .2]) * rng.random() + .005
        self.poisson = rng.random() < .3; self.corr = rng.choice([0, 0, .8])
        self.gamma = np.exp(rng.uniform(-.6, .6))
        self.debris = rng.random() < .5; self.organelles = rng.random() < .7
        self.debris_c = base + rng.normal(0, far, C); self.organ_c = self.mean[1] + rng.normal(0, far, C)
        self.debris_r = log_uniform(rng, 1, 5); self.organ_r = log_uniform(rng, 1.5, .35 * self.p['radius'] + 2); self.organ_rim = rng.random() < .6
        self.rim_class = rng.random() < .25
        self.membrane_alike = rng.random() < .5
    def classes(self, rng):
        n, p, k = self.n, self.p, self.kind
        if k == 'tissue':
            ids, gap = tissue(rng, n, p)
            c = np.where(gap < p['thick'] * (.7 + .3 * np.clip(field(rng, n, 6), -1, 1)), 2, 1); return c, ids
        if k == 'cells':   # scattered cells with membranes
            ids = ellipses(rng, n, p); edge = _edges(ids, p['thick']); return np.where(edge & (ids > 0), 2, (ids > 0) * 1), ids
        if k == 'nested':
            ids = ellipses(rng, n, {**p, 'radius': max(8, p['radius'])}); m = ids > 0
            d = ndi.distance_transform_edt(m); f = d + 1.5 * field(rng, n, 4) * min(3, p['radius'] / 6)
            return np.where(m & (f > p['radius'] * .45), 2, m * 1), ids
        if k == 'regions':
            m = regions(rng, n, p); return m, m
        if k == 'lines':
            m = lines(rng, n, p); return m, m
        ids = ellipses(rng, n, p); c = (ids > 0) * 1
        if self.rim_class: c = np.where(_edges(ids, p['thick']) & (ids > 0), 2, c)
        return c, ids
    def picture(self, rng):
        n = self.n; c, ids = self.classes(rng)
        C = self.mean.shape[1]
        im = self.mean[c].transpose(2, 0, 1).copy()
        jit = rng.normal(0, 1, ids.max() + 1)[ids] * self.jitter[c]; im += jit
        for k in range(3):
            s, a = self.tex[k]
            if a: im += a * field(rng, n, s) * (c == k)
        if self.shared[1]: im += self.shared[1] * field(rng, n, self.shared[0])
        inside = ids > 0
        if self.organelles and inside.any():
            q = dict(radius=self.organ_r, spread=.3, ecc=.3, long=0, rough=.5, cover=rng.uniform(.05, .25), apart=True)
            o = ellipses(rng, n, q); m = (o > 0) & (c == 1)
            m = (o > 0) & ~np.isin(o, np.unique(o[(c != 1) & (o > 0)])) if self.kind == 'tissue' else m
            if self.organ_rim:
                e = _edges(o, 1.0) & m; col = self.mean[2] if self.membrane_alike else self.organ_c
                im = np.where(e, col[:, None, None], np.where(m, im + .3 * (self.organ_c - self.mean[1])[:, None, None], im))
            else: im = np.where(m, self.organ_c[:, None, None], im)
        if self.debris and not inside.all():
            q = dict(radius=self.debris_r, spread=.5, ecc=.4, long=0, rough=.5, cover=rng.uniform(.01, .08), apart=False)
            o = ellipses(rng, n, q); im = np.where((o > 0) & (c == 0), self.debris_c[:, None, None], im)
        obj = inside.astype(float)
        if self.kind != 'tissue':
            if self.dome:
                d = ndi.distance_transform_edt(inside); im += self.dome * np.minimum(d / self.p['radius'], 1)
            if self.halo[0]: im += self.halo[0] * (ndi.gaussian_filter(obj, self.halo[1]) - obj) * (1 - obj)
            if self.rim[0]: im += self.rim[0] * (ndi.gaussian_filter(obj, self.rim[1]) - obj)
        if self.shade: im += self.shade * field(rng, n, n / 4)
        if self.blur: im = ndi.gaussian_filter(im, (0, self.blur, self.blur))
        lo = np.quantile(im, .01); hi = np.quantile(im, .99); im = (im - lo) / (hi - lo + 1e-3)
        im = np.sign(im) * np.abs(im) ** self.gamma
        amp = self.noise * (np.sqrt(np.clip(im, .05, 2)) if self.poisson else 1)
        z = rng.standard_normal(im.shape)
        if self.corr: z = ndi.gaussian_filter(z, (0, self.corr, self.corr)); z /= z.std() + 1e-6
        im = im + amp * z
        lo, hi = (np.percentile(im, q, axis=(1, 2))[:, None, None] for q in (1, 99.8))
        im = (im - lo) / (hi - lo + 1e-3)
        if C == 1: im = np.repeat(im, 3, 0)
        return np.clip(im, -1, 3).astype(np.float16), c.astype(np.uint8)

def _edges(ids, thick):
    e = np.zeros(ids.shape, bool)
    for a in (0, 1):
        d = np.diff(ids, axis=a) != 0
        s = [slice(None)] * 2; s[a] = slice(None, -1); e[tuple(s)] |= d; s[a] = slice(1, None); e[tuple(s)] |= d
    r = int(round(thick)) - 1
    return ndi.binary_dilation(e, iterations=r) if r > 0 else e

def bank(seed, count, n=128, each=3):
    rng = np.random.default_rng(seed); X, Y = [], []
    while len(X) < count:
        w = World(rng, n)
        pics = [w.picture(rng) for _ in range(each)]
        share = np.bincount(np.stack([c for _, c in pics]).ravel(), minlength=3) / (each * n * n)
        present = np.flatnonzero(share > .01)
        if len(present) < 2 or not all(np.isin(present, c).all() for _, c in pics): continue
        if not np.isfinite(pics[0][0]).all(): continue
        X.append(np.stack([p for p, _ in pics])); Y.append(np.stack([c for _, c in pics]))
    return np.stack(X), np.stack(Y)

if __name__ == '__main__':
    import sys, time
    t = time.time(); X, Y = bank(int(sys.argv[1]), int(sys.argv[2])); print(X.shape, time.time() - t)
    np.savez(f'bank{sys.argv[1]}.npz', x=X, y=Y)
