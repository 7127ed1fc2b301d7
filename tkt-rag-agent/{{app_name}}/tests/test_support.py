"""Facts that a passage gives otherwise are doubts; what it merely says in other words is none."""

from __future__ import annotations

import pytest

from agent.support import doubts, shared, where

LEASE = (
    "The Tenant shall pay a rent of GBP 27,500 a year in advance, starting on 1 March 2026. "
    "The Tenant may end the Lease by giving at least six months' notice to Fairholme Estates Ltd. "
    "Dogs are not allowed in the shop. The deposit of £1.2 million is held by Rudge Solicitors. "
    "Late payment carries interest at 4% a year."
)


@pytest.mark.parametrize(
    "claim",
    [
        "The rent is £27,500 a year.",
        "The rent of 27,500 pounds is payable from March 1, 2026.",
        "It starts on 2026-03-01.",
        "The tenant can end the lease with 6 months' notice.",
        "The lease can be ended by giving no less than six months' notice.",
        "Dogs aren't allowed in the shop.",
        "Dogs are forbidden in the shop.",
        "Rudge Solicitors hold the deposit of 1,200,000 pounds.",
        "Interest on late payment is four per cent a year.",
        "According to section 3, notice must be given to Fairholme Estates.",
        "2) The rent is paid in advance.",
    ],
)
def test_what_is_said_in_other_words_is_no_doubt(claim: str) -> None:
    assert doubts(claim, LEASE) == []


@pytest.mark.parametrize(
    ("claim", "kind"),
    [
        ("The rent is £25,700 a year.", "number"),
        ("The rent is $27,500 a year.", "number"),
        ("The tenant must give six weeks' notice.", "number"),
        ("Late payment carries interest at 6% a year.", "number"),
        ("The rent starts on 1 May 2026.", "date"),
        ("The rent starts in March 2025.", "date"),
        ("The deposit is held by Ridge Solicitors.", "name"),
        ("Notice goes to Northgate Estates.", "name"),
        ("Dogs are allowed in the shop.", "negation"),
        ("The rent of GBP 27,500 a year is paid in arrears.", "negation"),
    ],
)
def test_a_fact_that_the_passage_gives_otherwise_is_a_doubt(claim: str, kind: str) -> None:
    assert kind in {doubt.kind for doubt in doubts(claim, LEASE)}


def test_a_quote_is_found_exactly_then_folded_then_nearly() -> None:
    assert where("not allowed", LEASE) == (LEASE.index("not allowed"), LEASE.index(" in the shop"))
    start, end = where("dogs are  NOT allowed", LEASE) or (0, 0)
    assert LEASE[start:end] == "Dogs are not allowed"
    start, end = where("Dogs are not allowed in the shops", LEASE) or (0, 0)
    assert LEASE[start:end] == "Dogs are not allowed in the shop."
    assert where("Cats are welcome everywhere else", LEASE) is None


def test_the_share_of_shared_words() -> None:
    assert shared("The rent is paid in advance", LEASE) > 0.6
    assert shared("Penguins swim gracefully", LEASE) == 0
