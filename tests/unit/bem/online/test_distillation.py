"""Tests of hint distillation against closed forms."""

import torch
from bem.online.distillation import hint_divergence, teacher_targets


def logits(seed: int, tokens: int = 5, words: int = 12) -> torch.Tensor:
    """Return random logits."""
    return 3 * torch.randn(tokens, words, generator=torch.Generator().manual_seed(seed))


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher || student) of log-probabilities, term by term."""
    return (teacher.exp() * (teacher - student)).sum(-1)


def test_all_tokens_give_the_whole_divergence() -> None:
    """With every token kept the loss is KL(teacher || student)."""
    teacher, student = logits(0), logits(1)
    expected = divergence(teacher.log_softmax(-1), student.log_softmax(-1))

    torch.testing.assert_close(hint_divergence(student, teacher_targets(teacher, 12)), expected)
    assert teacher_targets(teacher).ids.shape == (5, 12)


def test_other_tokens_are_one_outcome() -> None:
    """With three tokens kept, it is the divergence of two distributions over four outcomes."""
    teacher, student = logits(2), logits(3)
    targets = teacher_targets(teacher, 3)

    def four(log_probabilities: torch.Tensor) -> torch.Tensor:
        kept = log_probabilities.gather(-1, targets.ids)
        return torch.cat([kept, torch.log(1 - kept.exp().sum(-1, keepdim=True))], -1)

    expected = divergence(four(teacher.log_softmax(-1)), four(student.log_softmax(-1)))
    found = hint_divergence(student, targets)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert bool((found <= divergence(teacher.log_softmax(-1), student.log_softmax(-1))).all())


def test_agreement_costs_nothing_and_pulls_nowhere() -> None:
    """At the teacher's own logits the loss and its gradient are 0."""
    student = logits(4).requires_grad_()
    loss = hint_divergence(student, teacher_targets(student, 4)).sum()
    torch.autograd.backward(loss)

    assert abs(float(loss.detach())) < 1e-5
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-5


def test_gradient_is_student_minus_teacher() -> None:
    """With every token kept, the gradient in the logits is the difference of the probabilities."""
    teacher, student = logits(5), logits(6).requires_grad_()
    torch.autograd.backward(hint_divergence(student, teacher_targets(teacher, 12)).sum())

    assert student.grad is not None
    expected = student.detach().softmax(-1) - teacher.softmax(-1)
    torch.testing.assert_close(student.grad, expected, atol=1e-5, rtol=1e-4)


def test_certain_teacher_is_finite() -> None:
    """A teacher that leaves nothing to the other tokens gives a finite loss and gradient."""
    teacher = torch.tensor([[100.0, 0.0, 0.0, 0.0]])
    student = torch.zeros(1, 4, requires_grad=True)
    loss = hint_divergence(student, teacher_targets(teacher, 2)).sum()
    torch.autograd.backward(loss)

    assert student.grad is not None
    torch.testing.assert_close(loss.detach(), torch.tensor(4.0).log())
    assert bool(student.grad.isfinite().all())
