"""The exceptional Lie algebra E7 (split real form): 133 matrices of 56 x 56, from its minuscule representation."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from scipy import sparse
from torch import Tensor

# Bourbaki: nodes 1 3 4 5 6 7 in a row, 2 joined to 4
EDGES = ((0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (1, 3))


class E7(NamedTuple):
    """basis (133, 56, 56): the 7 of the Cartan subalgebra, 63 raising and 63 lowering matrices, whose transposes they
    are; roots (126, 7) of the raising and lowering ones in simple roots; weights (56, 7) in fundamental weights."""

    basis: Tensor
    roots: Tensor
    weights: Tensor

    def structure(self) -> Tensor:
        """c (133, 133, 133) of ``[X_a, X_b] = sum_c c_abc X_c``, by sparse products: most entries are 0."""
        count, size = self.basis.shape[:2]
        below = sparse.csr_array(self.basis.reshape(-1, size).numpy())
        beside = sparse.csr_array(self.basis.transpose(0, 1).reshape(size, -1).numpy())
        products = (below @ beside).tocoo()  # rows (a, i), columns (b, k)
        (a, i), (b, k) = (divmod(index, size) for index in (products.row, products.col))
        shape = (count * count, size * size)
        flat = sparse.csr_array((products.data, (a * count + b, i * size + k)), shape=shape)
        basis = self.basis.flatten(1)
        traces = torch.from_numpy(flat @ sparse.csr_array(basis.numpy()).T.tocsr().toarray())
        traces = traces.view(count, count, count)
        return torch.linalg.solve(basis @ basis.T, (traces - traces.transpose(0, 1)).mT).mT


def bracket(a: Tensor, b: Tensor) -> Tensor:
    return a @ b - b @ a


def cartan_matrix() -> Tensor:
    """(7, 7) integers: 2 on the diagonal, -1 where two simple roots are joined."""
    matrix = 2 * torch.eye(7, dtype=torch.int64)
    for i, j in EDGES:
        matrix[i, j] = matrix[j, i] = -1
    return matrix


@lru_cache(maxsize=1)
def e7() -> E7:
    """The algebra, float64 with integer entries.

    The 56 weights are one orbit, their coordinates -1, 0 or 1; e_i takes the vector of weight mu to that of
    mu + alpha_i with factor 1 wherever that is a weight. In a minuscule representation these factors fulfil Serre's
    relations (e_i^2 = 0 and e_i e_j e_i = 0), so brackets of the e_i give the other raising matrices.
    """
    cartan = cartan_matrix()
    weights = [(0, 0, 0, 0, 0, 0, 1)]  # highest weight; lowering by simple roots finds the others
    for mu in weights:
        for i in range(7):
            lower = tuple((torch.tensor(mu) - cartan[i]).tolist())
            if mu[i] == 1 and lower not in weights:
                weights.append(lower)
    place = {mu: n for n, mu in enumerate(weights)}
    simple = torch.zeros(7, 56, 56, dtype=torch.float64)
    for mu, n in place.items():
        for i in range(7):
            if mu[i] == 1:
                simple[i, n, place[tuple((torch.tensor(mu) - cartan[i]).tolist())]] = 1.0
    units = torch.eye(7, dtype=torch.int64)
    raising = {tuple(units[i].tolist()): simple[i] for i in range(7)}
    waiting = list(raising)
    for root in waiting:
        for i in range(7):
            higher = tuple((torch.tensor(root) + units[i]).tolist())
            if higher not in raising:
                found = bracket(simple[i], raising[root])
                if found.any():
                    raising[higher] = found
                    waiting.append(higher)
    up = torch.stack(list(raising.values()))
    roots = torch.tensor(list(raising))
    basis = torch.cat([bracket(simple, simple.mT), up, up.mT])
    return E7(basis, torch.cat([roots, -roots]), torch.tensor(weights))
