"""Recall and precision of person-name detection: ``python -m benchmarks.names``.

Sentences combine templates, names of several origins, and capitalised words that are not names, so
that every name is labelled by construction.
"""

import json
import random
from pathlib import Path

from bem_fleet.data.person_names import person_name_spans

OUT = Path(__file__).resolve().parents[1] / "results/names.json"
SENTENCE_COUNT = 400
NAMES_BY_ORIGIN = {
    "English": ["John Miller", "Emily Carter", "Robert Hughes", "Sarah Bennett", "Tom Walker"],
    "Spanish": ["Lucía Fernández", "Carlos Ortega", "María López", "Diego Ramírez", "Ana Ruiz"],
    "Indian": ["Priya Sharma", "Rajesh Kumar", "Anjali Mehta", "Arjun Nair", "Deepa Iyer"],
    "Chinese": ["Wei Zhang", "Li Na", "Chen Jie", "Wang Fang", "Liu Yang"],
    "Arabic": ["Omar Haddad", "Fatima Al-Sayed", "Yusuf Mansour", "Layla Nasser", "Karim Aziz"],
    "Nigerian": ["Chinedu Okafor", "Ngozi Eze", "Tunde Balogun", "Amaka Obi", "Femi Adeyemi"],
    "given name only": ["Anna", "Peter", "Sofia", "James", "Fatima"],
}
SENTENCES_WITH_NAME = [
    "{} asked for a refund on {}.",
    "Please send the contract to {} in {}.",
    "My doctor, {}, moved to {} last year.",
    "I spoke with {} about the {} account yesterday.",
    "The report was written by {} and reviewed in {}.",
    "{} and the team in {} will call you back.",
]
SENTENCES_WITHOUT_NAME = [
    "The {} office opens on {}.",
    "Flights from {} to {} are late.",
    "The book about {} was printed in {}.",
]
OTHER_PROPER_NOUNS = [
    "Monday",
    "Paris",
    "Microsoft",
    "Chicago",
    "March",
    "Toyota",
    "Berlin",
    "Easter",
    "Nile",
]


def main() -> None:
    """Generate sentences, detect names and write recall and precision."""
    rng = random.Random(13)
    hits, total = dict.fromkeys(NAMES_BY_ORIGIN, 0), dict.fromkeys(NAMES_BY_ORIGIN, 0)
    found = right = 0
    for place in range(SENTENCE_COUNT):
        if place % 4 == 3:
            text, name, start = (
                rng.choice(SENTENCES_WITHOUT_NAME).format(*rng.sample(OTHER_PROPER_NOUNS, 2)),
                "",
                -1,
            )
        else:
            origin = rng.choice(list(NAMES_BY_ORIGIN))
            name = rng.choice(NAMES_BY_ORIGIN[origin])
            text = rng.choice(SENTENCES_WITH_NAME).format(name, rng.choice(OTHER_PROPER_NOUNS))
            start = text.index(name)
            total[origin] += 1
        spans = person_name_spans(text)
        found += len(spans)
        touching = [s for s in spans if name and s[0] < start + len(name) and s[1] > start]
        right += len(touching)
        if name and any(s[0] <= start and s[1] >= start + len(name) for s in touching):
            hits[origin] += 1
    report = {
        "command": "python -m benchmarks.names",
        "sentences": SENTENCE_COUNT,
        "recall": round(sum(hits.values()) / sum(total.values()), 3),
        "precision": round(right / found, 3),
        "recall_by_origin": {of: round(hits[of] / total[of], 3) for of in NAMES_BY_ORIGIN},
        "names": sum(total.values()),
        "note": "a name counts when it is covered whole; sentences are made, not collected",
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
