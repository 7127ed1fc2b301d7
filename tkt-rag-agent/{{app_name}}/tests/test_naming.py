"""Which document a question names, and what is left of the question inside it."""

from __future__ import annotations

import pytest

from agent.index import Index
from agent.naming import Usual, count, focus

INDEX = Index(None)
OPENINGS = {
    "loan.pdf": "Facility agreement between Northgate Lending and Calder Ceramics as borrower.",
    "lease.pdf": "Lease of 27 Mill Lane between Fairholme Estates and Bramble Bakery.",
    "licence.md": "Licence of PawLedger between Cobalt Finch and Harrowgate Veterinary Group.",
    "nda.md": "Agreement on confidence between Orchard Robotics and Marit Solvang.",
}
PASSAGES = ["The rent is due monthly.", "Interest is due monthly.", "Notice takes ten days."] * 4


def usual() -> Usual:
    return count(INDEX, map(INDEX.words, PASSAGES), OPENINGS.values())


@pytest.mark.parametrize(
    ("question", "document", "left"),
    [
        ("What is the interest under the Northgate agreement?", "loan.pdf", "What is the interest"),
        (
            "Consider the facility agreement between Northgate Lending and Calder Ceramics; "
            "When is interest due?",
            "loan.pdf",
            "When is interest due",
        ),
        (
            "In Bramble Bakery's lease, when must rent be paid?",
            "lease.pdf",
            "when must rent be paid",
        ),
        ("How long is notice for PawLedger?", "licence.md", "How long is notice"),
        ("Tell me about Marit Solvang", "nda.md", "Tell me about Marit Solvang"),
    ],
)
def test_the_mention_is_taken_out_wherever_it_stands(
    question: str, document: str, left: str
) -> None:
    found = focus(INDEX, usual(), question, document, OPENINGS[document])

    assert found.text == left
    assert found.strength >= 1


def test_a_question_that_names_nothing_is_left_as_it_is() -> None:
    found = focus(INDEX, usual(), "When is interest due?", "loan.pdf", OPENINGS["loan.pdf"])

    assert (found.text, found.strength) == ("When is interest due", 0)


def test_rare_words_are_rarer_and_more_telling() -> None:
    (rent,), (notice,), (due,) = map(INDEX.words, ("rent", "notice", "due"))
    (between, northgate) = (INDEX.words(word)[0] for word in ("agreement", "northgate"))

    assert usual().rarity(due) < usual().rarity(rent) == usual().rarity(notice)
    assert usual().telling(between) < usual().telling(northgate) == 1
