"""Domains of the instruction families: slots, wordings and objects of their requests."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FamilyDomain:
    """What requests of one domain are about.

    Attributes:
        name: Unique name.
        tool: Name of the domain's function.
        slots: Values of each of three slots by its name.
        phrases: Two noun phrases with all slots: of the stream's wordings, and of the probes'.
        thing: What the messages of the domain are about.
    """

    name: str
    tool: str
    slots: dict[str, tuple[str, ...]]
    phrases: tuple[str, str]
    thing: str


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today")
_HOURS = ("seven", "eight", "nine", "ten", "noon", "two", "four", "six")
_PEOPLE = ("Ada", "Bruno", "Carla", "Deniz", "Emil", "Fatma", "Goran", "Hanna")
_COUNTS = ("2", "3", "4", "5", "6", "8", "12", "20")

DOMAINS: dict[str, tuple[FamilyDomain, ...]] = {
    "train": (
        FamilyDomain(
            "weather",
            "forecast",
            {
                "city": ("Oslo", "Lima", "Turin", "Accra", "Perth", "Quito", "Kyoto", "Leeds"),
                "day": _DAYS,
                "unit": ("celsius", "fahrenheit", "kelvin", "metric", "imperial", "nautical"),
            },
            ("the weather in {city} on {day} in {unit}", "how {city} will be on {day}, in {unit}"),
            "forecast app",
        ),
        FamilyDomain(
            "restaurant",
            "reserve",
            {
                "place": ("Luna", "Basil", "Harbour", "Pepe", "Saffron", "Olive", "Ember", "Tide"),
                "people": _COUNTS,
                "hour": _HOURS,
            },
            ("a table at {place} for {people} at {hour}", "{people} seats for {hour} at {place}"),
            "table booking",
        ),
        FamilyDomain(
            "bank",
            "transfer",
            {
                "amount": ("15", "40", "75", "120", "260", "410", "900", "1500"),
                "person": _PEOPLE,
                "account": ("savings", "joint", "travel", "rent", "salary", "holiday"),
            },
            (
                "a payment of {amount} to {person} from the {account} account",
                "{amount} out of {account} that should reach {person}",
            ),
            "card payment",
        ),
        FamilyDomain(
            "train",
            "ticket",
            {
                "origin": ("Ghent", "Basel", "Porto", "Malmo", "Krakow", "Lyon", "Graz", "York"),
                "target": ("Bonn", "Delft", "Siena", "Tampere", "Brno", "Nice", "Linz", "Bath"),
                "class": ("first", "second", "quiet", "sleeper", "family", "bicycle"),
            },
            ("a {class} seat from {origin} to {target}", "{origin} to {target}, {class}"),
            "train ticket",
        ),
        FamilyDomain(
            "clinic",
            "appointment",
            {
                "doctor": ("Reyes", "Novak", "Okoro", "Lind", "Sato", "Weiss", "Costa", "Moreau"),
                "day": _DAYS,
                "reason": ("cough", "checkup", "vaccine", "back pain", "allergy", "results"),
            },
            (
                "a visit to doctor {doctor} on {day} about {reason}",
                "{reason}, to be seen by doctor {doctor} on {day}",
            ),
            "clinic visit",
        ),
        FamilyDomain(
            "warehouse",
            "restock",
            {
                "item": ("bolts", "lamps", "gloves", "tiles", "ropes", "valves", "crates", "pumps"),
                "count": _COUNTS,
                "shelf": ("north", "south", "upper", "lower", "cold", "dock"),
            },
            (
                "{count} boxes of {item} for the {shelf} shelf",
                "the {shelf} shelf, which lacks {count} boxes of {item}",
            ),
            "delivery",
        ),
        FamilyDomain(
            "gym",
            "enroll",
            {
                "course": ("yoga", "rowing", "boxing", "pilates", "climbing", "spinning"),
                "person": _PEOPLE,
                "hour": _HOURS,
            },
            ("{person} in the {course} course at {hour}", "{course} at {hour} with {person} in it"),
            "course pass",
        ),
        FamilyDomain(
            "hotel",
            "stay",
            {
                "room": ("single", "double", "suite", "attic", "garden", "corner"),
                "nights": _COUNTS,
                "guest": _PEOPLE,
            },
            ("a {room} room for {guest} for {nights} nights", "{nights} nights, {room}, {guest}"),
            "hotel stay",
        ),
    ),
    "dev": (
        FamilyDomain(
            "music",
            "play",
            {
                "artist": ("Vela", "Northkin", "Juno Park", "Osei", "The Lanterns", "Marlo"),
                "room": ("kitchen", "studio", "garage", "attic", "hall", "office"),
                "volume": _COUNTS,
            },
            (
                "songs of {artist} in the {room} at volume {volume}",
                "the {room} at volume {volume} with {artist} on",
            ),
            "playlist",
        ),
        FamilyDomain(
            "library",
            "loan",
            {
                "title": ("Red Shore", "The Ninth Key", "Salt Road", "Glass Birds", "Low Tide"),
                "branch": ("west", "old town", "station", "campus", "river", "park"),
                "weeks": _COUNTS,
            },
            (
                "the book {title} from the {branch} branch for {weeks} weeks",
                "{weeks} weeks with {title}, picked up at {branch}",
            ),
            "book loan",
        ),
    ),
    "held_out": (
        FamilyDomain(
            "garden",
            "water",
            {
                "plant": ("ferns", "tomatoes", "roses", "thyme", "lupins", "beans", "figs"),
                "litres": _COUNTS,
                "bed": ("east", "raised", "shaded", "rear", "gravel", "border"),
            },
            (
                "{litres} litres for the {plant} in the {bed} bed",
                "the {bed} bed, where {plant} need {litres} litres",
            ),
            "sprinkler",
        ),
    ),
}
"""Domains by split; no slot name, tool or phrase of a held-out domain is in another split."""
