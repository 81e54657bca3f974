"""E7: dimension, closed brackets, Jacobi, Killing form and Casimir against the tables of the exceptional algebras."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from neurons.manifold.e7 import bracket, cartan_matrix, e7


@pytest.fixture(scope="module")
def structure() -> Tensor:
    return e7().structure()


def test_dimensions_and_determinant() -> None:
    algebra = e7()
    assert algebra.basis.shape == (133, 56, 56)
    assert len({tuple(root) for root in algebra.roots.tolist()}) == 126
    assert len({tuple(weight) for weight in algebra.weights.tolist()}) == 56
    assert round(torch.linalg.det(cartan_matrix().double()).item()) == 2  # the centre of simply connected E7
    assert algebra.roots.sum(1).max() == 17  # height of the highest root: Coxeter number 18, less 1
    assert torch.linalg.matrix_rank(algebra.basis.flatten(1)) == 133


def test_serre_relations() -> None:
    algebra, cartan = e7(), cartan_matrix()
    e, h = algebra.basis[7:14], algebra.basis[:7]
    for i in range(7):
        for j in range(7):
            torch.testing.assert_close(bracket(h[i], e[j]), float(cartan[i, j]) * e[j])
            torch.testing.assert_close(bracket(e[i], e[j].T), h[i] * float(i == j))
            if i != j:
                nested = e[j]
                for _ in range(1 - int(cartan[i, j])):
                    nested = bracket(e[i], nested)
                assert not nested.any()


def test_brackets_close(structure: Tensor) -> None:
    algebra = e7()
    for a in range(0, 133, 7):
        found = torch.einsum("bc,cij->bij", structure[a], algebra.basis)
        torch.testing.assert_close(found, bracket(algebra.basis[a], algebra.basis), rtol=0, atol=1e-9)


def test_jacobi(structure: Tensor) -> None:
    adjoint = structure.mT  # ad X_a maps column b to c
    for a, b in ((0, 20), (30, 90), (75, 76), (10, 132)):
        both = torch.einsum("c,cij->ij", structure[a, b], adjoint)
        torch.testing.assert_close(bracket(adjoint[a], adjoint[b]), both, rtol=0, atol=1e-8)


def test_killing_form_is_three_traces_and_of_the_split_signature(structure: Tensor) -> None:
    killing = torch.einsum("acd,bdc->ab", structure, structure)
    traces = torch.einsum("aij,bji->ab", e7().basis, e7().basis)
    torch.testing.assert_close(killing, 3 * traces, rtol=0, atol=1e-6)  # Dynkin indices 36 and 12
    values = torch.linalg.eigvalsh(killing)
    assert (values > 1).sum() == 70
    assert (values < -1).sum() == 63
    torch.testing.assert_close(killing[:7, :7], 36 * cartan_matrix().double(), rtol=0, atol=1e-6)


def test_the_casimir_is_a_number() -> None:
    algebra = e7()
    killing = 3 * torch.einsum("aij,bji->ab", algebra.basis, algebra.basis)
    casimir = torch.einsum("ab,aij,bjk->ik", torch.linalg.inv(killing), algebra.basis, algebra.basis)
    torch.testing.assert_close(casimir, 133 / 56 / 3 * torch.eye(56, dtype=torch.float64), rtol=0, atol=1e-10)


def test_it_leaves_a_symplectic_form() -> None:
    basis = e7().basis
    unknown = torch.zeros(56, 56, dtype=torch.float64)
    place = {tuple(weight): n for n, weight in enumerate(e7().weights.tolist())}
    pairs = [(n, place[tuple(-w for w in weight)]) for weight, n in place.items()]
    rows = []  # X^T O + O X = 0 with O pairing each weight with its negative: linear in 56 numbers
    for x in [*basis[7:14], *basis[70:77]]:
        terms = []
        for n, m in pairs:
            unknown.zero_()[n, m] = 1.0
            terms.append((x.T @ unknown + unknown @ x).flatten())
        rows.append(torch.stack(terms, 1))
    system = torch.cat(rows)
    values, vectors = torch.linalg.eigh(system.T @ system)
    assert (values < 1e-9).sum() == 1
    form = torch.zeros(56, 56, dtype=torch.float64)
    for (n, m), entry in zip(pairs, vectors[:, 0], strict=True):
        form[n, m] = entry
    torch.testing.assert_close(form.T, -form, rtol=0, atol=1e-9)
